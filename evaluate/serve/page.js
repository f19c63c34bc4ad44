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
  byId("head").textContent = listed.about.head;
  const facts = Object.entries(listed.about).flatMap(([name, value]) => [html("dt", {}, name), html("dd", { dir: "auto" }, value)]);
  byId("facts").replaceChildren(...facts);
}

// The chosen video, before anything is asked of it.
function preview(source, name) {
  const [player, caption] = byId("preview").children;
  if (player.src.startsWith("blob:")) URL.revokeObjectURL(player.src);
  byId("preview").hidden = !source;
  caption.textContent = "";
  player.onerror = () => (caption.textContent = `This browser cannot play ${name}. It can be asked of all the same.`);
  if (source) player.src = source;
  else player.removeAttribute("src");
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
  const asked = await answered(question, say);
  const section = show({ question, name: video.video ?? video.name, ...asked });
  section.scrollIntoView({ block: "nearest" });
}

// Wait for the answers to a question, and tell how far it is; its error is thrown.
async function answered(question, tell) {
  for (;;) {
    const state = await request(`questions/${question}`);
    if (state.error) throw new Error(state.error);
    if (state.answers) return state;
    tell(state.ahead ? `Waiting: ${state.ahead} ${state.ahead > 1 ? "questions come" : "question comes"} first.` : "Looking …");
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

function show(asked) {
  const section = html("section", { class: "asked" }, ...drawQuestion(asked));
  byId("answers").prepend(section);
  return section;
}

// What was asked before this page was loaded; what is not answered yet is waited for, with the form open.
async function showEarlier() {
  for (const asked of await request("questions")) {
    const state = asked.answers ? asked : await answered(asked.question, () => {}).catch((error) => ({ error: error.message }));
    show({ ...asked, ...state });
  }
}

// One thing after the other, with the form closed meanwhile.
async function busy(work) {
  byId("ask").disabled = true;
  byId("fault").textContent = "";
  try {
    await work();
  } catch (error) {
    byId("fault").textContent = error.message;
  }
  say("");
  byId("ask").disabled = false;
}

byId("question").addEventListener("submit", (event) => {
  event.preventDefault();
  busy(ask);
});
byId("sentences").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("question").requestSubmit();
});
byId("chosen").addEventListener("input", () => {
  const name = byId("chosen").value;
  byId("file").value = "";
  preview(name && `preview?${new URLSearchParams({ video: name })}`, name);
});
byId("file").addEventListener("input", () => {
  const [file] = byId("file").files;
  byId("chosen").value = "";
  preview(file && URL.createObjectURL(file), file?.name);
});
listVideos()
  .then(showEarlier)
  .catch((error) => (byId("fault").textContent = error.message));
