// The page's data, and drawings of one sample: frames with boxes, and its time line.

const CELLS = 6;
const block = (id) => JSON.parse(byId(id).textContent);
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const percent = (x) => (100 * x).toFixed(1);

function remember(make) {
  const known = new Map();
  return (key) => {
    if (!known.has(key)) known.set(key, make(key));
    return known.get(key);
  };
}

const index = block("index");
const detailsBlock = remember((number) => block(`details-${number}`));
const picturesOf = remember((video) => (byId(`pictures-${video}`) ? block(`pictures-${video}`) : {}));

// Everything the index says of the sample in row i. Spans are source frames, half-open; `before`: vIoU in other runs.
function sampleAt(i) {
  const [video, width, height, fps, times] = index.videos[index.video[i]];
  const before = index.before.map((of) => of[i]);
  const own = Object.fromEntries(
    ["id", "sentence", "segment", "moment", "tube", "tIoU", "vIoU", "outcome"].map((name) => [name, index[name][i]]),
  );
  return { ...own, row: i, kind: index.kinds[index.kind[i]], video, width, height, fps, times, before };
}

// When a source frame of a sample's video is shown, in seconds, by the video's own times or its rate.
function secondsAt({ fps, times }, frame) {
  if (!Array.isArray(times)) return frame / fps;
  const at = Math.min(Math.max(0, frame), times.length - 1);
  const low = Math.floor(at);
  const next = times[Math.min(low + 1, times.length - 1)];
  return times[low] + (at - low) * (next - times[low]);
}

// The frame, with a fraction, that is shown at a second.
function frameAt({ fps, times }, second) {
  if (!Array.isArray(times)) return second * fps;
  const after = times.findIndex((time) => time > second);
  if (after <= 0) return after ? times.length - 1 : 0;
  return after - 1 + (second - times[after - 1]) / (times[after] - times[after - 1]);
}

// A span in seconds; in frames where only an assumed rate is known.
function spanText(sample, [a, b], to) {
  if (sample.times === false) return `frames ${Math.round(a)}${to}${Math.round(b)}`;
  return `${secondsAt(sample, a).toFixed(1)}${to}${secondsAt(sample, b).toFixed(1)} s`;
}

// The clip of row i: source frames of its slots, boxes as numbers from 0 to 65535, and the evidence if there is any.
function clipAt(i) {
  const { clips, rows } = detailsBlock(Math.floor(i / index.block));
  const row = rows[i % index.block];
  const shades = (stored) => stored && { peak: stored[0], levels: bytes(stored[1]) };
  const frames = new Uint32Array(bytes(clips[row.clip]).buffer);
  return {
    frames,
    pictures: picturesOf(index.video[i]),
    first: row.first,
    truth: new Uint16Array(bytes(row.truth).buffer),
    guess: new Uint16Array(bytes(row.guess).buffer),
    start: shades(row.start),
    end: shades(row.end),
    inside: shades(row.inside),
    lookedAt: shades(row.looked_at),
    attention: shades(row.attention),
  };
}

// Slots worth showing: those with a picture if there are enough of them to tell the story, else all.
function shownSlots(clip) {
  const all = Array.from(clip.frames.keys());
  const pictured = all.filter((slot) => clip.frames[slot] in clip.pictures);
  return pictured.length >= Math.min(CELLS, all.length) ? pictured : all;
}

const within = (frame, [start, end]) => frame >= start && frame < end;
const between = (a, b, share) => a.map((value, k) => value + share * (b[k] - value));

// The annotated and the predicted box at a frame as [x1, y1, x2, y2] fractions, between two slots those between their
// boxes; null where there is none.
function boxesAt(sample, clip, frame) {
  const { frames } = clip;
  const next = frames.findIndex((of) => of > frame);
  const slot = next < 0 ? frames.length - 1 : Math.max(0, next - 1);
  const share = next > 0 ? (frame - frames[slot]) / (frames[next] - frames[slot]) : 0;
  const of = (boxes, k) => {
    if (k < 0 || 4 * k >= boxes.length) return null;
    const box = Array.from(boxes.subarray(4 * k, 4 * k + 4), (v) => v / 65535);
    return box[0] <= box[2] ? box : null;
  };
  const at = (boxes, first) => {
    const here = of(boxes, slot - first);
    const there = share && of(boxes, slot + 1 - first);
    return here && there ? between(here, there, share) : here;
  };
  return { truth: at(clip.truth, clip.first), guess: within(frame, sample.tube) ? at(clip.guess, 0) : null };
}

function overlap(a, b) {
  const area = ([x1, y1, x2, y2]) => Math.max(0, x2 - x1) * Math.max(0, y2 - y1);
  const shared = area([Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])]);
  return shared > 0 ? shared / (area(a) + area(b) - shared) : 0;
}

// Put a frame into its drawing: its picture, if there is one, and the boxes over it.
function paintFrame(drawing, sample, clip, frame) {
  const { width, height } = sample;
  const boxes = boxesAt(sample, clip, frame);
  const shown = frame in clip.pictures ? frame : "";
  const said = Object.keys(boxes).filter((name) => boxes[name]).map((n) => (n === "truth" ? "annotated" : "predicted"));
  drawing.setAttribute("aria-label", `Frame ${Math.round(frame)}: ${said.length ? `${said.join(" and ")} box` : "no box"}`);
  if (drawing.dataset.shown !== String(shown)) {
    drawing.dataset.shown = shown;
    drawing.querySelector("image")?.remove();
    if (shown !== "") drawing.prepend(svg("image", { href: `data:image/webp;base64,${clip.pictures[shown]}`, width, height }));
  }
  drawing.querySelectorAll("rect").forEach((rect) => rect.remove());
  for (const [name, box] of Object.entries(boxes)) {
    if (!box) continue;
    const [x1, y1, x2, y2] = box.map((v, k) => v * (k % 2 ? height : width));
    const place = { x: x1, y: y1, width: x2 - x1, height: y2 - y1 };
    drawing.append(svg("rect", { ...place, class: "casing" }), svg("rect", { ...place, class: `box ${name}` }));
  }
}

function newFrame({ width, height }) {
  return svg("svg", { class: "frame", viewBox: `0 0 ${width} ${height}`, role: "img" });
}

function drawFrame(sample, clip, slot) {
  const drawing = newFrame(sample);
  paintFrame(drawing, sample, clip, clip.frames[slot]);
  return drawing;
}

// CELLS frames, each from its own sixth of the clip, so that they stand above their place on the time line; in every
// sixth the slot that shows most: in both moments, else in one, else any.
function drawStrip(sample, clip) {
  const [from, to] = sample.segment;
  const slots = shownSlots(clip);
  const strip = html("div", { class: "strip" });
  for (let k = 0; k < CELLS; k++) {
    const part = [from + ((to - from) * k) / CELLS, from + ((to - from) * (k + 1)) / CELLS];
    const here = slots.filter((slot) => within(clip.frames[slot], part));
    const worth = (slot) => Object.values(boxesAt(sample, clip, clip.frames[slot])).filter(Boolean).length;
    const most = Math.max(...here.map(worth));
    const best = here.filter((slot) => worth(slot) === most);
    strip.append(here.length ? drawFrame(sample, clip, best[best.length >> 1]) : html("span", { class: "frame" }));
  }
  return strip;
}

const AXIS = 18;
const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 3600];

// Both moments, attention, and probabilities of start, end and (where frames decide) being inside, over the segment; `height`
// of the curves in pixels. Start and end share one scale; inside has its own, from 0 to 1.
function drawTimeline(sample, clip, height) {
  const [from, to] = sample.segment;
  const x = (frame) => 100 * Math.min(1, Math.max(0, (frame - from) / (to - from)));
  const drawn = clip.start ? 36 + height : 22;
  const total = drawn + AXIS;
  const drawing = svg("svg", {
    class: "timeline",
    height: total,
    role: "img",
    "aria-label": `Annotated ${spanText(sample, sample.moment, " to ")}, predicted ${spanText(sample, sample.tube, " to ")}`,
  });
  const band = (name, y, [a, b]) => [
    svg("rect", { class: "groove", x: 0, y, width: "100%", height: 8, rx: 2 }),
    svg("rect", { class: `band ${name}`, x: `${x(a)}%`, y, width: `${Math.max(0, x(b) - x(a))}%`, height: 8, rx: 2 }),
  ];
  drawing.append(...band("truth", 1, sample.moment), ...band("guess", 12, sample.tube));
  if (clip.start) {
    const highest = Math.max(clip.start.peak, clip.end.peak);
    const curve = (name, peak) => {
      const { peak: own, levels } = clip[name];
      const points = Array.from(clip.frames, (f, k) => `${10 * x(f)},${100 - ((levels[k] / 255) * own * 100) / peak}`);
      return svg("polyline", { class: name, points: points.join(" ") });
    };
    const box = { x: 0, y: 24, width: "100%", height, viewBox: "0 -4 1000 108", preserveAspectRatio: "none" };
    const curves = [curve("start", highest), curve("end", highest)];
    if (clip.inside) curves.unshift(curve("inside", 1));
    drawing.append(svg("svg", { class: "chances", ...box }, ...curves), drawAttention(clip, x, drawn - 9));
  }
  drawing.append(...drawAxis(sample, x, drawn));
  drawing.append(svg("line", { class: "cursor", x1: 0, x2: 0, y1: 0, y2: drawn, visibility: "hidden" }));
  return drawing;
}

// Seconds of the video below a time line; frames where only an assumed rate is known.
function drawAxis(sample, x, y) {
  const counted = sample.times === false;
  const [from, to] = counted ? sample.segment : sample.segment.map((frame) => secondsAt(sample, frame));
  const rough = (to - from) / 5;
  const step = STEPS.find((s) => s >= (counted ? Math.max(1, rough) : rough)) ?? 3600;
  const marks = [];
  for (let k = Math.ceil(from / step - 1e-9); k * step <= to + 1e-9; k++) {
    const at = x(counted ? k * step : frameAt(sample, k * step));
    const anchor = at < 4 ? "start" : at > 94 ? "end" : "middle";
    const text = `${Number((k * step).toFixed(1))}${counted ? "" : " s"}`;
    marks.push(svg("line", { class: "mark", x1: `${at}%`, x2: `${at}%`, y1: y, y2: y + 4 }));
    marks.push(svg("text", { class: "when", x: `${at}%`, y: y + 15, "text-anchor": anchor }, text));
  }
  return marks;
}

function drawAttention(clip, x, y) {
  const strip = svg("g", { class: "attention" }, svg("rect", { class: "groove", x: 0, y, width: "100%", height: 8 }));
  clip.frames.forEach((frame, k) => {
    const next = k + 1 < clip.frames.length ? x(clip.frames[k + 1]) : 100;
    const shade = clip.lookedAt.levels[k] / 255;
    const place = { x: `${x(frame)}%`, width: `${next - x(frame)}%`, y, height: 8 };
    strip.append(svg("rect", { class: "slot", ...place, "fill-opacity": shade.toFixed(3) }));
  });
  return strip;
}
