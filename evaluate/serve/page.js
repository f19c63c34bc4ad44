// Questions to the server, and what it answers. Sentences and names only ever become text.

const POLL_MS = 300;
let limit = Infinity;

// The server's answer as JSON; what it refuses, or cannot be asked for, is thrown.
async function request(path, options) {
  const response = await fetch(path, options).catch(() => {
    throw new Error("The server does not answer: stvg predict --serve may have ended.");
  });
  const answer = response.headers.get("content-type") === "application/json" ? await response.json() : {};
  if (!response.ok) throw new Error(answer.error ?? `The server refuses: ${response.status}.`);
  return answer;
}

const post = (path, body) => request(path, { method: "POST", body });
const say = (text) => (byId("status").textContent = text);

async function listVideos() {
  const listed = await request("videos");
  limit = listed.limit;
  byId("chosen").append(...listed.names.map((name) => html("option", { value: name }, name)));
  byId("chosen").parentElement.hidden = !listed.names.length;
}

// The video as the server knows it: one of its folder, or one that is sent to it now.
async function theVideo() {
  if (byId("chosen").value) return { video: byId("chosen").value };
  const [file] = byId("file").files;
  if (!file) throw new Error("Choose a video first.");
  if (file.size > limit) throw new Error(`The video is too large: ${file.size} bytes, at most ${limit}.`);
  say("Sending the video …");
  return { ...(await post("uploads", file)), name: file.name };
}

async function ask() {
  const sentences = byId("sentences").value.split("\n").filter((line) => line.trim());
  if (!sentences.length) throw new Error("Say what to look for.");
  const video = await theVideo();
  const { question } = await post("questions", JSON.stringify({ ...video, sentences }));
  for (;;) {
    const state = await request(`questions/${question}`);
    if (state.error) throw new Error(state.error);
    if (state.answers) return show(question, video.video ?? video.name, state.answers);
    say(state.ahead ? `Waiting: ${state.ahead} ${state.ahead > 1 ? "questions come" : "question comes"} first.` : "Looking …");
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

function show(question, name, answers) {
  const boxes = html("a", { href: `questions/${question}/predictions.jsonl`, download: "predictions.jsonl" }, "All boxes");
  const cards = answers.map((answer, i) => card(answer, `questions/${question}/${i + 1}.mp4`));
  const asked = html("section", { class: "asked" }, html("p", { class: "quiet" }, html("bdi", {}, name), " · ", boxes), ...cards);
  byId("answers").prepend(asked);
  asked.scrollIntoView({ block: "nearest" });
}

function card(answer, source) {
  const film = html("video", { src: `${source}#t=${answer.start}`, controls: "", playsinline: "", preload: "auto", "aria-label": answer.sentence });
  const seconds = `${answer.start.toFixed(1)} – ${answer.end.toFixed(1)} s`;
  const play = html("button", { type: "button" }, "▶ Play the moment");
  play.addEventListener("click", () => playMoment(film, answer));
  const chips = [seconds, `frames ${answer.first} – ${answer.last}`];
  if (answer.score !== null) chips.push(`score ${answer.score.toFixed(2)}`);
  return html(
    "article",
    { class: "card answer" },
    film,
    html(
      "div",
      {},
      html("h2", { dir: "auto" }, answer.sentence),
      html("p", { class: "chips" }, ...chips.map((text) => html("span", { class: "chip" }, text))),
      play,
    ),
  );
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

byId("question").addEventListener("submit", async (event) => {
  event.preventDefault();
  byId("ask").disabled = true;
  byId("fault").textContent = "";
  try {
    await ask();
  } catch (error) {
    byId("fault").textContent = error.message;
  }
  say("");
  byId("ask").disabled = false;
});
byId("sentences").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("question").requestSubmit();
});
byId("chosen").addEventListener("input", () => (byId("file").value = ""));
byId("file").addEventListener("input", () => (byId("chosen").value = ""));
listVideos().catch((error) => (byId("fault").textContent = error.message));
