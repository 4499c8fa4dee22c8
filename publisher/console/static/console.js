// Conveniences: the pages work without any of this.

// Theme -------------------------------------------------------------------------------------

const THEMES = { "": "system", light: "light", dark: "dark" };

function setUpThemes() {
  const root = document.documentElement;
  for (const button of document.querySelectorAll("[data-theme-toggle]")) {
    const name = button.querySelector("[data-theme-name]");
    const show = () => (name.textContent = THEMES[root.dataset.theme ?? ""]);
    button.hidden = false;
    show();
    button.addEventListener("click", () => {
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
      try {
        localStorage.setItem("theme", root.dataset.theme);
      } catch {
        // Then it applies to this page only.
      }
      show();
    });
  }
}

// Times in the reader's time zone, or as ages -----------------------------------

const AGO = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60]];

function ago(at) {
  const seconds = (at - Date.now()) / 1000;
  for (const [unit, length] of UNITS) {
    if (Math.abs(seconds) >= length) return AGO.format(Math.trunc(seconds / length), unit);
  }
  return "just now";
}

function setTimes(within) {
  for (const time of within.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    const full = at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
    time.title = full;
    if (time.dataset.style === "ago") time.textContent = ago(at);
    else if (time.dataset.style === "clock") time.textContent = at.toLocaleTimeString(undefined, { hour12: false });
    else time.textContent = full;
  }
}

// Live updates -----------------------------------------------------------------

/** Make one element like another. Changes only what differs, so that the focus stays where it is. */
function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) return old.replaceWith(fresh);
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    const opened = name === "open" && old.nodeName === "DETAILS";
    if (!opened && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const [before, after] = [[...old.childNodes], [...fresh.childNodes]];
  after.forEach((node, at) => (at < before.length ? morph(before[at], node) : old.append(node)));
  for (const node of before.slice(after.length)) node.remove();
}

function parse(html) {
  const template = document.createElement("template");
  template.innerHTML = html.trim();
  return template.content.firstElementChild;
}

function announce(before, after) {
  if (after && before !== after) document.getElementById("announcer").textContent = after;
}

function change({ parts, lists }) {
  const fresh = new Map(Object.entries(parts).map(([id, html]) => [id, parse(html)]));
  for (const [id, element] of fresh) {
    const old = document.getElementById(id);
    if (!old) continue;
    const said = old.dataset.announce;
    setTimes(element);
    morph(old, element);
    announce(said, old.dataset.announce);
  }
  for (const [id, items] of Object.entries(lists)) arrange(document.getElementById(id), items, fresh);
}

/** Put the items of a list in this order. Moves only those that are out of place. */
function arrange(list, items, fresh) {
  if (!list) return;
  const wanted = new Set(items);
  for (const child of [...list.children]) if (!wanted.has(child.id)) child.remove();
  let place = list.firstElementChild;
  for (const id of items) {
    const item = document.getElementById(id) ?? fresh.get(id);
    if (!item) continue;
    if (item === place) place = place.nextElementSibling;
    else {
      setTimes(item);
      list.insertBefore(item, place);
    }
  }
}

function keepUpToDate(page) {
  const url = page.dataset.live;
  const light = document.querySelector("[data-live-light]");
  const say = (on) => {
    if (!light) return;
    light.hidden = false;
    light.classList.toggle("on", on);
    light.lastElementChild.textContent = on ? "Live" : "Not live";
  };
  let source = null;
  const close = () => {
    source?.close();
    source = null;
  };
  const open = () => {
    if (source || document.hidden) return;
    source = new EventSource(url);
    source.addEventListener("open", () => say(true));
    source.addEventListener("change", (event) => change(JSON.parse(event.data)));
    source.addEventListener("reload", () => location.reload());
    source.addEventListener("error", () => {
      say(false);
      if (source?.readyState !== EventSource.CLOSED) return;
      // The server answered with something else: it has no room for more live pages, or the session has ended.
      close();
      setTimeout(open, 10_000);
    });
  };
  // A browser has few connections to one host, so hidden pages leave them to visible ones.
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  open();
}

// Small things -----------------------------------------------------------------------------------

function setUpSmallThings() {
  for (const button of document.querySelectorAll("[data-copy]")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.dataset.copy || document.getElementById(button.dataset.copyFrom).textContent);
      announce("", "Copied");
      button.classList.add("copied");
      setTimeout(() => button.classList.remove("copied"), 1500);
    });
  }
  // Apply a filter as soon as it is chosen.
  for (const form of document.querySelectorAll("form[data-submit-on-change]")) {
    for (const select of form.querySelectorAll("select")) select.addEventListener("change", () => form.requestSubmit());
  }
  // Do not send a form twice.
  for (const form of document.querySelectorAll('form[method="post"]')) {
    form.addEventListener("submit", () => setTimeout(() => form.querySelectorAll("button").forEach((button) => (button.disabled = true))));
    addEventListener("pageshow", () => form.querySelectorAll("button").forEach((button) => (button.disabled = false)));
  }
}

setUpThemes();
setTimes(document);
setInterval(() => setTimes(document), 30_000);
setUpSmallThings();
const page = document.querySelector("[data-live]");
if (page) keepUpToDate(page);
