// The player: one sample large, frame by frame.

const player = { position: 0, sample: null, clip: null, slots: [], at: 0, timer: null };
const dialog = byId("player");

// Show the sample at a position of what the gallery has found.
function openPlayer(position) {
  stop();
  const sample = sampleAt(gallery.found[position]);
  const clip = clipAt(sample.row);
  const slots = shownSlots(clip);
  Object.assign(player, { position, sample, clip, slots });
  byId("player-sentence").textContent = sample.sentence;
  byId("player-facts").replaceChildren(...facts(sample));
  byId("player-timeline").replaceChildren(drawTimeline(sample, clip, 64));
  byId("scrub").max = slots.length - 1;
  byId("previous-sample").disabled = position === 0;
  byId("next-sample").disabled = position === gallery.found.length - 1;
  drawMatrix(clip);
  if (!dialog.open) dialog.showModal();
  const middle = (sample.moment[0] + sample.moment[1]) / 2;
  const distance = (k) => Math.abs(clip.frames[slots[k]] - middle);
  step(slots.reduce((best, _, k) => (distance(k) < distance(best) ? k : best), 0));
}

function facts(sample) {
  const lines = [
    ["vIoU", percent(sample.vIoU)],
    ["tIoU", percent(sample.tIoU)],
    ["annotated", spanText(sample, sample.moment, " – ")],
    ["predicted", spanText(sample, sample.tube, " – ")],
    ["kind", sample.kind],
    ["video", sample.video],
    ["sample", String(sample.id)],
  ];
  if (sample.before !== null) lines.splice(1, 0, ["vIoU, other run", percent(sample.before)]);
  return lines.flatMap(([name, value]) => [html("dt", {}, name), html("dd", { dir: "auto" }, value)]);
}

// Go to the k-th shown slot, or the nearest there is.
function step(k) {
  const { sample, clip, slots } = player;
  player.at = Math.min(Math.max(0, k), slots.length - 1);
  const slot = slots[player.at];
  const frame = clip.frames[slot];
  byId("stage").replaceChildren(drawFrame(sample, clip, slot));
  const { truth, guess } = boxesAt(sample, clip, slot);
  const iou = truth && guess ? ` · IoU ${percent(overlap(truth, guess))}` : "";
  const when = sample.times === false ? "" : `${secondsAt(sample, frame).toFixed(1)} s · `;
  const text = `${when}frame ${frame}${iou}`;
  byId("clock").textContent = text;
  byId("scrub").value = player.at;
  byId("scrub").setAttribute("aria-valuetext", text);
  const [from, to] = sample.segment;
  const cursor = dialog.querySelector(".cursor");
  for (const end of ["x1", "x2"]) cursor.setAttribute(end, `${(100 * (frame - from)) / (to - from)}%`);
  cursor.setAttribute("visibility", "visible");
  showAttention(slot);
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
  const { slots, clip, sample } = player;
  if (player.timer !== null) return stop();
  if (player.at === slots.length - 1) step(0);
  byId("play").textContent = "❚❚";
  byId("play").setAttribute("aria-label", "Pause");
  const tick = () => {
    if (player.at === slots.length - 1) return stop();
    const wait = secondsAt(sample, clip.frames[slots[player.at + 1]]) - secondsAt(sample, clip.frames[slots[player.at]]);
    player.timer = setTimeout(() => {
      step(player.at + 1);
      tick();
    }, 1000 * wait);
  };
  tick();
}

function stop() {
  clearTimeout(player.timer);
  player.timer = null;
  byId("play").textContent = "▶";
  byId("play").setAttribute("aria-label", "Play");
}

function neighbour(by) {
  const position = player.position + by;
  if (position >= 0 && position < gallery.found.length) openPlayer(position);
}

const keys = {
  ArrowLeft: () => move(player.at - 1),
  ArrowRight: () => move(player.at + 1),
  Home: () => move(0),
  End: () => move(player.slots.length - 1),
  " ": play,
  j: () => neighbour(1),
  k: () => neighbour(-1),
};

function move(k) {
  stop();
  step(k);
}

dialog.addEventListener("keydown", (event) => {
  const pressed = event.key === " " && event.target.matches("button"); // that button's own
  if (event.ctrlKey || event.metaKey || event.altKey || pressed || !(event.key in keys)) return;
  event.preventDefault();
  keys[event.key]();
});
dialog.addEventListener("close", stop);
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
byId("close").addEventListener("click", () => dialog.close());
byId("play").addEventListener("click", play);
byId("previous-frame").addEventListener("click", () => move(player.at - 1));
byId("next-frame").addEventListener("click", () => move(player.at + 1));
byId("previous-sample").addEventListener("click", () => neighbour(-1));
byId("next-sample").addEventListener("click", () => neighbour(1));
byId("scrub").addEventListener("input", (event) => move(Number(event.target.value)));
