// The player: one sample large. Time passes evenly; a picture stands, with its own boxes, until the next one comes.

const player = { position: 0, sample: null, clip: null, slots: [], frame: 0, slot: 0, playing: null };
const dialog = byId("player");

// Show the sample at a position of what the gallery has found.
function openPlayer(position) {
  stop();
  const sample = sampleAt(gallery.found[position]);
  Object.assign(player, { position, sample });
  byId("player-sentence").textContent = sample.sentence;
  byId("player-facts").replaceChildren(...facts(sample));
  byId("previous-sample").disabled = position === 0;
  byId("next-sample").disabled = position === gallery.found.length - 1;
  const [from, to] = sample.segment;
  Object.assign(byId("scrub"), { min: from, max: to });
  takeClip();
  if (!dialog.open) dialog.showModal();
  history.replaceState(null, "", linkTo(sample));
  const middle = (sample.moment[0] + sample.moment[1]) / 2;
  step(nearest(middle));
  withPictures(sample.row, (error) => {
    if (error || player.sample !== sample) return;
    takeClip();
    showFrame(player.frame);
  });
}

// The clip of the sample on show, with the pictures that there are now.
function takeClip() {
  const { sample } = player;
  const clip = clipAt(sample.row);
  Object.assign(player, { clip, slots: shownSlots(clip) });
  byId("player-timeline").replaceChildren(drawTimeline(sample, clip, 64));
  byId("stage").replaceChildren(newFrame(sample));
  drawMatrix(clip);
}

const wellFormed = (id) => String(id).toWellFormed();
const linkTo = ({ id }) => `#sample=${encodeURIComponent(wellFormed(id))}`;

// Open the sample that the address names, if it names one.
function openLinked() {
  const named = location.hash.match(/^#sample=(.*)/);
  if (!named) return;
  const row = index.id.findIndex((id) => encodeURIComponent(wellFormed(id)) === named[1]);
  if (row < 0) return;
  if (!gallery.found.includes(row)) {
    byId("filters").reset();
    search();
  }
  openPlayer(gallery.found.indexOf(row));
}

function facts(sample) {
  const lines = [
    ["vIoU", percent(sample.vIoU)],
    ...sample.before.flatMap((before, run) => (before === null ? [] : [[`vIoU, ${index.runs[run]}`, percent(before)]])),
    ["tIoU", percent(sample.tIoU)],
    ["annotated", spanText(sample, sample.moment, " – ")],
    ["predicted", spanText(sample, sample.tube, " – ")],
    ["kind", sample.kind],
    ["video", sample.video],
    ["sample", html("a", { href: linkTo(sample), title: "A link to this example" }, String(sample.id))],
  ];
  return lines.flatMap(([name, value]) => [html("dt", {}, name), html("dd", { dir: "auto" }, value)]);
}

// Which of the shown slots is nearest to a frame.
function nearest(frame) {
  const { clip, slots } = player;
  const distance = (k) => Math.abs(clip.frames[slots[k]] - frame);
  return slots.reduce((best, _, k) => (distance(k) < distance(best) ? k : best), 0);
}

// Go to the k-th shown slot, or the nearest there is.
function step(k) {
  const { clip, slots } = player;
  showFrame(clip.frames[slots[Math.min(Math.max(0, k), slots.length - 1)]]);
}

// The frame that stands for a moment: that of the last picture; any one where there are none.
function standing(frame) {
  const { clip, slots } = player;
  if (!slots.every((slot) => clip.frames[slot] in clip.pictures)) return frame;
  const passed = slots.filter((slot) => clip.frames[slot] <= frame);
  return clip.frames[passed.length ? passed[passed.length - 1] : slots[0]];
}

// Show any moment, told as a frame with a fraction.
function showFrame(moment) {
  const { sample, clip } = player;
  player.frame = moment;
  const frame = standing(moment);
  paintFrame(byId("stage").firstChild, sample, clip, frame);
  const { truth, guess } = boxesAt(sample, clip, frame);
  const iou = truth && guess ? ` · IoU ${percent(overlap(truth, guess))}` : "";
  const when = sample.times === false ? "" : `${secondsAt(sample, moment).toFixed(1)} s · `;
  const text = `${when}frame ${Math.floor(frame)}${iou}`;
  byId("clock").textContent = text;
  byId("scrub").value = moment;
  byId("scrub").setAttribute("aria-valuetext", text);
  const [from, to] = sample.segment;
  const cursor = dialog.querySelector(".cursor");
  for (const end of ["x1", "x2"]) cursor.setAttribute(end, `${(100 * (moment - from)) / (to - from)}%`);
  cursor.setAttribute("visibility", "visible");
  const after = clip.frames.findIndex((of) => of > frame);
  const slot = after < 0 ? clip.frames.length - 1 : Math.max(0, after - 1);
  if (slot !== player.slot || player.playing === null) showAttention((player.slot = slot));
}

// The strip under the time line says what the slot on show looks at; a frame around its row says so in the matrix.
function showAttention(slot) {
  const { attention, frames } = player.clip;
  if (!attention) return;
  const T = frames.length;
  const row = attention.levels.subarray(slot * T, (slot + 1) * T);
  const most = Math.max(1, ...row);
  dialog.querySelectorAll(".attention .slot").forEach((rect, k) => rect.setAttribute("fill-opacity", row[k] / most));
  const marker = dialog.querySelector(".matrix i");
  marker.style.top = `${(100 * slot) / T}%`;
  marker.style.height = `${100 / T}%`;
}

function drawMatrix({ attention, frames }) {
  byId("heat").hidden = !attention;
  if (!attention) return;
  const canvas = dialog.querySelector("canvas");
  canvas.width = canvas.height = frames.length;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(frames.length, frames.length);
  attention.levels.forEach((level, k) => pixels.data.set([139, 116, 245, level], 4 * k));
  context.putImageData(pixels, 0, 0);
}

function play() {
  const { clip, slots, sample } = player;
  if (player.playing !== null) return stop();
  const last = clip.frames[slots[slots.length - 1]];
  const from = player.frame >= last ? clip.frames[slots[0]] : player.frame;
  byId("play").textContent = "❚❚";
  byId("play").setAttribute("aria-label", "Pause");
  let began = null;
  const tick = (now) => {
    began ??= now;
    const frame = Math.min(last, frameAt(sample, secondsAt(sample, from) + (now - began) / 1000));
    showFrame(frame);
    if (frame >= last) return stop();
    player.playing = requestAnimationFrame(tick);
  };
  player.playing = requestAnimationFrame(tick);
}

function stop() {
  cancelAnimationFrame(player.playing);
  player.playing = null;
  byId("play").textContent = "▶";
  byId("play").setAttribute("aria-label", "Play");
}

function neighbour(by) {
  const position = player.position + by;
  if (position >= 0 && position < gallery.found.length) openPlayer(position);
}

// To the next shown slot in a direction.
function move(by) {
  stop();
  const { clip, slots, frame } = player;
  const frames = slots.map((slot) => clip.frames[slot]);
  const passed = by < 0 ? frames.filter((of) => of < frame).length - 1 : frames.findIndex((of) => of > frame);
  step(passed < 0 && by > 0 ? frames.length - 1 : passed);
}

function jump(k) {
  stop();
  step(k);
}

const keys = {
  ArrowLeft: () => move(-1),
  ArrowRight: () => move(1),
  Home: () => jump(0),
  End: () => jump(player.slots.length - 1),
  " ": play,
  j: () => neighbour(1),
  k: () => neighbour(-1),
};

dialog.addEventListener("keydown", (event) => {
  const pressed = event.key === " " && event.target.matches("button"); // that button's own
  if (event.ctrlKey || event.metaKey || event.altKey || pressed || !(event.key in keys)) return;
  event.preventDefault();
  keys[event.key]();
});
dialog.addEventListener("close", () => {
  stop();
  history.replaceState(null, "", location.pathname + location.search);
});
addEventListener("hashchange", openLinked);
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
byId("close").addEventListener("click", () => dialog.close());
byId("play").addEventListener("click", play);
byId("previous-frame").addEventListener("click", () => move(-1));
byId("next-frame").addEventListener("click", () => move(1));
byId("previous-sample").addEventListener("click", () => neighbour(-1));
byId("next-sample").addEventListener("click", () => neighbour(1));
byId("scrub").addEventListener("input", (event) => {
  stop();
  showFrame(Number(event.target.value));
});
