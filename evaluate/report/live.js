// Pictures that are not in this file: a page that `stvg report --serve` shows asks for them when a sample is looked at.

const asked = remember(async (i) => {
  const { pictures, error } = await fetch(`pictures/${i}`).then((response) => response.json());
  Object.assign(picturesOf(index.video[i]), pictures);
  return error;
});

// Do something once the pictures of row i are there, or the reason why there are none; only where they are asked for.
function withPictures(i, then) {
  const ended = "The server does not answer: stvg report --serve may have ended.";
  if (index.live) asked(i).then(then, () => then(ended));
}
