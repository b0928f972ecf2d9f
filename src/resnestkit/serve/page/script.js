// One picture at a time: it is shown, sent to /predict, and what comes back is drawn on it.
"use strict";

const $ = (id) => document.getElementById(id);
const KEPT = "resnestkit-token"; // in this tab alone
const BOX_LETTERS = 15; // CSS pixels

let model = null;
let current = null; // the file that is shown
let running = null; // what stops the requests of the picture before

// --- asking the service ---

async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  const token = sessionStorage.getItem(KEPT);
  if (token) headers.set("Authorization", `Bearer ${token}`);
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service cannot be reached.");
  }
  const content = await response.json().catch(() => ({ error: "The answer is no JSON." }));
  if (response.status === 401) askForToken();
  if (!response.ok) throw new Error(content.error);
  return content;
}

function askForToken() {
  $("ask").hidden = false;
  $("token").focus();
}

function formOf(file) {
  const form = new FormData();
  form.append("images", file, file.name || "pasted");
  return form;
}

async function start() {
  try {
    model = await ask("model");
  } catch (error) {
    const unasked = !$("ask").hidden && !sessionStorage.getItem(KEPT);
    complain(unasked ? null : error);
    return;
  }
  $("ask").hidden = true;
  complain(null);
  document.title = model.net;
  $("net").textContent = model.net;
  const count = model.classes.length;
  const seen = model.size ? `, sees ${model.size} × ${model.size} pixels` : "";
  $("about").textContent = `${model.kind} of ${count} classes${seen} · ${model.file}`;
  if (current) show(current);
}

// --- one picture ---

async function show(file) {
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  current = file;
  complain(null);
  present(file);
  const [most, size] = [model?.limits.megabytes, file.size / 1e6];
  if (most && size > most) {
    hideAnswer();
    complain(new Error(`This file has ${size.toFixed(1)} MB; ${most} MB is the most.`));
    return;
  }
  $("answer").hidden = false;
  $("answer").setAttribute("aria-busy", "true");
  document.querySelector(".columns").classList.add("two");
  try {
    const answer = await ask("predict", { method: "POST", body: formOf(file), signal });
    await render(answer.results[0], signal);
    offerAttention();
  } catch (error) {
    if (error.name === "AbortError") return;
    hideAnswer();
    complain(error);
  }
  $("answer").setAttribute("aria-busy", "false");
}

function present(file) {
  const picture = $("picture");
  URL.revokeObjectURL(picture.src);
  $("frame").className = "";
  picture.onload = () => $("frame").classList.toggle("small", picture.naturalWidth < 200);
  picture.onerror = () => { picture.hidden = true; };
  picture.hidden = false;
  picture.src = URL.createObjectURL(file);
  picture.alt = `The picture: ${file.name}`;
  $("name").textContent = file.name;
  $("invite").hidden = true;
  $("stage").hidden = false;
  for (const id of ["drawn", "attention", "strength"]) $(id).hidden = true;
  $("answer-body").replaceChildren();
  $("more").replaceChildren();
}

function hideAnswer() {
  $("answer").hidden = true;
  document.querySelector(".columns").classList.remove("two");
}

function complain(error) {
  $("message").hidden = !error;
  $("message").textContent = error ? error.message : "";
}

async function render(result, signal) {
  if (result.guesses) renderGuesses(result);
  else if (result.objects) await renderObjects(result, signal);
  else await renderSegments(result, signal);
  signal.throwIfAborted();
}

// --- small things ---

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const signed = (number) => {
  const size = Math.abs(number).toFixed(1);
  return size === "0.0" ? size : `${number < 0 ? "−" : "+"}${size}`;
};
const png = (content) => `data:image/png;base64,${content}`;

function row(label, number, share, colour) {
  const name = make("span", { className: "label" });
  if (colour) {
    const swatch = make("span", { className: "swatch" });
    swatch.style.setProperty("--colour", colour);
    name.append(swatch);
  }
  name.append(label);
  const item = make("li", {}, name, make("span", { className: "number" }, number));
  requestAnimationFrame(() => item.style.setProperty("--share", share));
  return item;
}

function list(rows, className = "guesses") {
  $("answer-body").replaceChildren(make("ol", { className }, ...rows));
}

function load(source) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = reject;
    image.src = source;
  });
}

// --- a classifier ---

function renderGuesses({ guesses }) {
  $("answer-title").textContent = "What it sees";
  list(guesses.map((guess) => row(guess.label, percent(guess.score), guess.score)));
}

// --- a detector ---

const colourOf = (label) => {
  const index = model ? model.classes.indexOf(label) : 0;
  return `hsl(${(index * 137.5 + 210) % 360} 85% 55%)`;
};

async function renderObjects(result, signal) {
  const count = result.objects.length;
  $("answer-title").textContent = count === 1 ? "1 object" : `${count} objects`;
  const rows = result.objects.map((one) =>
    row(one.label, percent(one.score), one.score, colourOf(one.label)));
  list(rows, "guesses plain tall");
  if (!count) $("more").textContent = "It is sure of nothing here.";
  await $("picture").decode().catch(() => {}); // it lays itself out by its size
  signal.throwIfAborted(); // another picture is shown meanwhile
  const canvas = $("drawn");
  [canvas.width, canvas.height] = [result.width, result.height];
  canvas.hidden = false;
  canvas.style.opacity = 1;
  const shown = Math.min(canvas.clientWidth / result.width, canvas.clientHeight / result.height);
  const scale = 1 / (shown || 1);
  const fine = $("frame").className ? Math.ceil(shown * devicePixelRatio) : 1; // for the letters
  [canvas.width, canvas.height] = [fine * result.width, fine * result.height];
  const context = canvas.getContext("2d");
  context.scale(fine, fine);
  drawMasks(context, result, shown);
  for (const one of [...result.objects].reverse()) drawBox(context, one, result.width, scale);
}

function drawBox(context, { box: [left, top, right, bottom], label, score }, imageWidth, scale) {
  const letters = BOX_LETTERS * scale;
  context.strokeStyle = context.fillStyle = colourOf(label);
  context.lineWidth = 2.5 * scale;
  context.strokeRect(left, top, right - left, bottom - top);
  context.font = `600 ${letters}px system-ui, sans-serif`;
  const text = `${label} ${Math.round(100 * score)}`;
  const width = context.measureText(text).width + letters * 0.6;
  const [x, y] = [Math.max(0, Math.min(left, imageWidth - width)),
    Math.max(0, top - letters * 1.35)];
  context.fillRect(x, y, width, letters * 1.35);
  context.fillStyle = "#fff";
  context.shadowColor = "#000a";
  context.shadowBlur = letters / 5;
  context.fillText(text, x + letters * 0.3, y + letters);
  context.shadowBlur = 0;
}

// COCO's compressed run lengths: numbers of five bits a letter, from the third on as differences.
function decodeRuns(text) {
  const runs = [];
  for (let at = 0; at < text.length;) {
    let [value, shift, more] = [0, 0, true];
    while (more) {
      const bits = text.charCodeAt(at++) - 48;
      value |= (bits & 31) << shift;
      more = Boolean(bits & 32);
      shift += 5;
      if (!more && bits & 16) value |= -1 << shift;
    }
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

// All on one sheet, which has no more pixels than are shown: a photo has many, and many objects.
function drawMasks(context, { objects, width, height }, shown) {
  const share = Math.min(1, (shown || 1) * devicePixelRatio);
  const sheet = make("canvas", {
    width: Math.max(1, Math.round(width * share)), height: Math.max(1, Math.round(height * share)),
  });
  const painter = sheet.getContext("2d");
  painter.globalAlpha = 120 / 255;
  for (const one of objects) if (one.mask) drawMask(painter, one);
  context.drawImage(sheet, 0, 0, width, height);
}

function drawMask(painter, { mask, label }) {
  const [height, width] = mask.size;
  const [x, y] = [painter.canvas.width / width, painter.canvas.height / height];
  const before = (pixels, scale) => Math.ceil(pixels * scale - 0.5); // the sheet's, by their middles
  painter.fillStyle = colourOf(label);
  let [at, inside] = [0, false];
  for (const run of decodeRuns(mask.counts)) {
    const end = at + run;
    while (inside && at < end) { // columns first, and one of them at a time
      const column = Math.floor(at / height);
      const stop = Math.min(end, (column + 1) * height);
      const [left, top] = [before(column, x), before(at - column * height, y)];
      const [right, bottom] = [before(column + 1, x), before(stop - column * height, y)];
      if (left < right && top < bottom) painter.fillRect(left, top, right - left, bottom - top);
      at = stop;
    }
    at = end;
    inside = !inside;
  }
}

// --- a segmenter ---

async function renderSegments(result, signal) {
  $("answer-title").textContent = "What is where";
  const rows = result.shares.map((one) =>
    row(one.label, percent(one.share), one.share, one.colour));
  list(rows, "guesses plain tall");
  const mask = await load(png(result.mask));
  signal.throwIfAborted();
  const canvas = $("drawn");
  [canvas.width, canvas.height] = [result.width, result.height];
  canvas.getContext("2d").drawImage(mask, 0, 0);
  canvas.hidden = false;
  $("strength").hidden = false;
  canvas.style.opacity = $("opacity").value / 100;
}

// --- attention ---

function offerAttention() {
  if (!model) return;
  if (!model.explains) {
    $("more").textContent = model.why_not;
    return;
  }
  const button = make("button", { type: "button" }, "Show where it looks");
  button.onclick = () => explain(button);
  $("more").replaceChildren(button);
}

async function explain(button) {
  button.disabled = true;
  button.textContent = "Looking …";
  try {
    const options = { method: "POST", body: formOf(current), signal: running.signal };
    renderAttention(await ask("explain", options));
    button.remove();
  } catch (error) {
    if (error.name === "AbortError") return;
    button.disabled = false;
    button.textContent = "Show where it looks";
    complain(error);
  }
}

function view(explained, map, words) {
  const alt = `${words}, for ${explained.label}`;
  const pile = make("div", { className: "pile" },
    make("img", { src: `data:image/jpeg;base64,${explained.picture}`, alt: map ? "" : alt }));
  if (map) pile.append(make("img", { src: png(map), alt }));
  return make("figure", { className: "view" }, pile, make("figcaption", {}, words));
}

function renderAttention(explained) {
  $("attention").hidden = false;
  $("views-note").textContent = explained.note;
  for (const id of ["blocks", "effects"]) $(id).replaceChildren();
  if (explained.blocks.length) $("blocks").append(blockTable(explained));
  else renderViews(explained, null);
  $("attention").scrollIntoView({ block: "nearest" });
}

const nameSplit = (branch, split) => (branch === "gate" ? "gate" : `${branch} ${split + 1}`);

function renderViews(explained, block) {
  const views = [view(explained, null, "What the net saw")];
  if (explained.activation) {
    views.push(view(explained, explained.activation, `What speaks for ${explained.label}`));
  }
  block?.maps.forEach((group, head) => group.forEach((map, split) => {
    const words = [block.block];
    if (block.maps.length > 1) words.push(`head ${head + 1}`);
    words.push(nameSplit(block.branch, split));
    views.push(view(explained, map, words.join(", ")));
  }));
  $("views").replaceChildren(...views);
}

function choose(explained, block) {
  renderViews(explained, block);
  renderEffects(explained, block);
}

// What forcing does, run by run: in the chosen block, and in all of them at once.
const VALUES = { 0: "0", 0.5: "½", 1: "1" };

function renderEffects(explained, block) {
  const rows = [[block.block, block.effects], ["all blocks", explained.everywhere]]
    .flatMap(([where, effects]) => effects.map((one) => make("tr", {},
      make("th", { scope: "row" }, where),
      make("td", { className: "whole" },
        `${nameSplit(block.branch, one.split)} at ${VALUES[one.value]}`),
      make("td", { className: "number" }, signed(100 * one.change)),
      make("td", {}, one.top))));
  if (!rows.length) {
    $("effects").replaceChildren();
    return;
  }
  const table = tableOf(["Block", "Forced", "Points", "Highest then"], [2], rows);
  const others = block.weights[0].length - 1;
  const rest = ["", ` The other ${block.branch} gets the rest.`][others]
    ?? ` The other ${block.branch}s share the rest.`;
  const words = `Points: by how much the score of ${explained.label} moves when the attention is `
    + `forced. Highest then: what the ${model.kind} is surest of in that run.${rest}`;
  $("effects").replaceChildren(make("h3", {}, "What if it chose otherwise"),
    make("div", { className: "scroller" }, table), make("p", { className: "note" }, words));
}

function tableOf(heads, numbers, rows) {
  const cells = heads.map((text, column) =>
    make("th", { scope: "col", className: numbers.includes(column) ? "number" : "" }, text));
  return make("table", {}, make("thead", {}, make("tr", {}, ...cells)),
    make("tbody", {}, ...rows));
}

const strongest = ({ effects }) =>
  effects.reduce((most, one) => (Math.abs(one.change) > Math.abs(most.change) ? one : most),
    { change: 0 });

function blockTable(explained) {
  const rows = explained.blocks.map((block) => blockRow(explained, block));
  const chosen = explained.blocks.reduce((best, block, index) =>
    (Math.abs(strongest(block).change) > Math.abs(strongest(explained.blocks[best]).change)
      ? index : best), 0);
  rows[chosen].querySelector("input").checked = true;
  choose(explained, explained.blocks[chosen]);
  const table = tableOf(["Block", "Attention", "Uniform", "Forced"], [2, 3], rows);
  const { branch } = explained.blocks[chosen];
  const what = branch === "gate" ? "how far the gate is open, in the mean"
    : `the mean weight of each ${branch}`;
  const words = `Attention: ${what}. Uniform: how even the weights are, 100 % where attention `
    + "idles. Forced: by how many points the score of the class moves, at most, when one "
    + `${branch} is forced to 0, ½ or 1.`;
  return make("div", {}, make("div", { className: "scroller" }, table),
    make("p", { className: "note" }, words));
}

function blockRow(explained, block) {
  const choice = make("input", { type: "radio", name: "block" });
  choice.onchange = () => choose(explained, block);
  const shares = make("div", { className: "shares" });
  for (const group of block.weights) {
    const bar = make("div");
    for (const weight of group) {
      const part = make("i", { title: weight.toFixed(3) });
      part.style.setProperty("--share", weight);
      bar.append(part);
    }
    shares.append(bar);
  }
  return make("tr", {},
    make("th", { scope: "row" }, make("label", {}, choice, block.block)),
    make("td", {}, shares),
    make("td", { className: "number" }, `${Math.round(100 * block.entropy)} %`),
    make("td", { className: "number" },
      block.effects.length ? signed(100 * strongest(block).change) : "–"));
}

// --- ways in: pick, drop, paste ---

$("file").onchange = ({ target }) => {
  if (target.files.length) show(target.files[0]);
  target.value = "";
};

let inside = 0;
addEventListener("dragenter", () => { inside += 1; $("place").classList.add("over"); });
addEventListener("dragleave", () => {
  inside = Math.max(0, inside - 1);
  if (!inside) $("place").classList.remove("over");
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  $("place").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) show(file);
});
addEventListener("paste", ({ clipboardData }) => {
  const [file] = clipboardData.files;
  if (file) show(file);
});

$("opacity").oninput = ({ target }) => { $("drawn").style.opacity = target.value / 100; };
$("ask").onsubmit = (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEPT, $("token").value.trim());
  start();
};

start();
