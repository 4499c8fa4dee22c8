// Upload an image from this computer: show the progress, and let the user stop it.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

function size(bytes) {
  const power = Math.min(Math.floor(Math.log2(Math.max(bytes, 1)) / 10), UNITS.length - 1);
  const count = bytes / 1024 ** power;
  return `${power ? count.toFixed(count < 100 ? 1 : 0) : count} ${UNITS[power]}`;
}

function duration(seconds) {
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

const form = document.getElementById("upload");
if (form) setUp(form);

function setUp(form) {
  const part = (name) => form.querySelector(`[data-${name}]`);
  const [progress, numbers, problem, send, abort] = ["progress", "numbers", "problem", "send", "abort"].map(part);
  const bar = progress.querySelector("progress");
  const file = form.elements.file;
  let request = null;
  form.hidden = false;
  document.querySelector("[data-without-script]").remove();

  const show = (going) => {
    progress.hidden = abort.hidden = !going;
    send.disabled = going;
    for (const field of form.querySelectorAll("input, select")) field.disabled = going;
  };

  const fail = (words) => {
    show(false);
    request = null;
    problem.textContent = words;
  };

  function tell({ loaded, total }, began) {
    bar.max = total;
    bar.value = loaded;
    const seconds = (performance.now() - began) / 1000;
    const rate = loaded / Math.max(seconds, 0.1);
    const rest = loaded < total ? `, ${duration((total - loaded) / Math.max(rate, 1))} left` : ". Checking…";
    numbers.textContent = `${size(loaded)} of ${size(total)}, ${size(rate)}/s${rest}`;
  }

  function end() {
    let answer = {};
    try {
      answer = JSON.parse(request.responseText);
    } catch {
      // The answer is a page, for example the sign-in page. It has no message to show.
    }
    if (request.status === 201) {
      const { location: page } = answer;
      request = null;
      location.assign(page);
    } else fail(answer.message ?? "The upload was refused. Reload this page; your session may have ended.");
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const [image] = file.files;
    problem.textContent = "";
    if (image.size > Number(form.dataset.bytesMax)) return fail(`The file is larger than ${size(Number(form.dataset.bytesMax))}.`);
    if (!image.size) return fail("The file is empty.");
    const query = new URLSearchParams({ file_name: image.name });
    for (const name of ["name", "format", "appliance", "sha256sum"]) query.set(name, form.elements[name].value);
    const began = performance.now();
    request = new XMLHttpRequest();
    request.open("POST", `${form.dataset.url}?${query}`);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.setRequestHeader("X-CSRF-Token", document.querySelector("meta[name=csrf]").content);
    request.upload.addEventListener("progress", (event) => tell(event, began));
    request.addEventListener("load", end);
    request.addEventListener("error", () => fail("The connection was lost. Nothing was stored; try again."));
    request.addEventListener("abort", () => fail("Cancelled. Nothing was stored."));
    tell({ loaded: 0, total: image.size }, began);
    show(true);
    request.send(image);
    abort.focus();
  });
  abort.addEventListener("click", () => request?.abort());
  addEventListener("beforeunload", (event) => request && event.preventDefault());
}
