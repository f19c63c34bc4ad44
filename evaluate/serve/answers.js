// The answers to one question: a film for every sentence, and its moments on a bar below.

const colours = (rank) => (rank ? "other" : "best");
const secondsText = ({ start, end }) => (start === null ? "" : `${start.toFixed(1)} – ${end.toFixed(1)} s`);
const framesText = ({ first, last }) => `frames ${first} – ${last}`;

// All of a question: what was asked of which video, and a card for every sentence, or why there is none.
function drawQuestion({ question, name, error, answers, doubts, frames, seconds }) {
  if (error) return [html("p", { class: "quiet" }, html("bdi", {}, name)), html("p", { class: "doubts" }, error)];
  const boxes = html("a", { href: `questions/${question}/predictions.jsonl`, download: "predictions.jsonl" }, "All boxes");
  const cards = answers.map((answer, i) => drawAnswer(answer, `questions/${question}/${i + 1}.mp4`, { frames, seconds }));
  const warned = doubts.length ? [html("p", { class: "doubts" }, doubts.join("\n"))] : [];
  return [html("p", { class: "quiet" }, html("bdi", {}, name), " · ", boxes), ...warned, ...cards];
}

function drawAnswer({ sentence, score, moments }, source, length) {
  const [best] = moments;
  const film = html("video", {
    src: `${source}#t=${best.start ?? 0}`,
    ...{ controls: "", playsinline: "", preload: "metadata", "aria-label": sentence },
  });
  const chips = [secondsText(best), framesText(best), score === null ? "" : `score ${score.toFixed(2)}`].filter(Boolean);
  const rows = moments.map((moment, rank) => {
    const play = html("button", { type: "button" }, html("i", { class: colours(rank) }), `▶ ${rank ? secondsText(moment) : "Play the moment"}`);
    play.addEventListener("click", () => playMoment(film, moment));
    return html("p", { class: "moment" }, play, html("span", { class: "quiet" }, ` likely ${moment.likely.toPrecision(2)}`));
  });
  return html(
    "article",
    { class: "card answer" },
    html("div", {}, film, drawBar(film, moments, length)),
    html(
      "div",
      {},
      html("h2", { dir: "auto" }, sentence),
      html("p", { class: "chips" }, ...chips.map((text) => html("span", { class: "chip" }, text))),
      ...rows,
    ),
  );
}

// The whole video from left to right, with its moments and where it plays; below the player, so that nothing covers it.
function drawBar(film, moments, { frames, seconds }) {
  const now = html("i", { class: "now" });
  const bar = html("div", { class: "moments", "aria-hidden": "true" });
  const parts = moments.map((moment, rank) => {
    const part = html("i", { class: colours(rank), title: secondsText(moment) || framesText(moment) });
    const [from, to] = seconds === null ? [moment.first / frames, (moment.last + 1) / frames] : [moment.start / seconds, moment.end / seconds];
    part.style.left = `${100 * from}%`;
    part.style.width = `${100 * (to - from)}%`;
    return part;
  });
  bar.append(...parts.reverse(), now);
  film.addEventListener("timeupdate", () => (now.style.left = `${(100 * film.currentTime) / (film.duration || 1)}%`));
  bar.addEventListener("click", ({ clientX }) => {
    const { left, width } = bar.getBoundingClientRect();
    film.currentTime = ((clientX - left) / width) * film.duration;
  });
  return bar;
}

function playMoment(film, { start, end }) {
  film.currentTime = start;
  film.ontimeupdate = () => {
    if (film.currentTime < end) return;
    film.ontimeupdate = null;
    film.pause();
  };
  film.play();
}
