// The page of the service. What is asked stands in the address, so that going back and a bookmark work; a picture,
// which can't, is kept as long as the page is open.
"use strict";

const PAGE = 24, RANKED = 240;  // hits on a page, and in a ranking
const $ = id => document.getElementById(id);
let health = null, picture = null, asked = 0;

const json = async response => {
  const answer = await response.json().catch(() => ({error: `the service answered with status ${response.status}`}));
  if (!response.ok) throw new Error(answer.error);
  return answer;
};

// --- what is asked ---------------------------------------------------------------------------------

function state() {
  const address = new URLSearchParams(location.search);
  return {...Object.fromEntries(address), offset: Number(address.get("offset")) || 0,
          picture: Boolean(history.state?.picture)};
}

function go(wanted, {keep = false} = {}) {  // "keep" the query, and change only how it is asked
  const address = new URLSearchParams(keep ? location.search : "");
  for (const [name, value] of Object.entries({...options(), offset: "", ...wanted}))
    value === "" || value === 0 ? address.delete(name) : address.set(name, value);
  const isPicture = keep ? Boolean(history.state?.picture) : Boolean(wanted.picture);
  address.delete("picture");
  history.pushState({picture: isPicture}, "", `?${address}`);
  ask();
}

const best = () => health.index.rescore ? "rescore" : "hamming";  // the order unless another is chosen

function options() {
  const filter = $("column").value && $("value").value ? {[$("column").value]: JSON.parse($("value").value)} : null;
  return {filter: filter ? JSON.stringify(filter) : "", bits: $("bits").value, order: $("order").value};
}

function request(wanted) {
  const settings = {topk: RANKED, offset: wanted.offset, limit: PAGE};
  if (wanted.bits) settings.bits = wanted.bits;
  if (wanted.filter) settings.filter = wanted.filter;
  const order = wanted.order || best();
  if (order !== "hamming") settings[order] = RANKED;
  if (wanted.picture)
    return fetch(`search?${new URLSearchParams(settings)}`,
                 {method: "POST", body: picture, headers: {"Content-Type": "application/octet-stream"}});
  if (wanted.item) settings.item = wanted.item;
  else if (wanted.text) settings.text = wanted.text;
  else {
    const part = {offset: wanted.offset, limit: PAGE, ...(wanted.filter && {filter: wanted.filter})};
    return fetch(`items?${new URLSearchParams(part)}`);
  }
  return fetch(`search?${new URLSearchParams(settings)}`);
}

async function ask() {
  const wanted = state(), mine = ++asked;
  if (wanted.picture && !picture) {  // the page was loaded anew
    history.replaceState(null, "", "?");
    return ask();
  }
  show(wanted);
  $("status").className = "";
  $("status").textContent = "Searching…";
  try {
    await describe(wanted);
    const answer = await json(await request(wanted));
    if (mine === asked) list(answer, wanted);
  } catch (error) {
    if (mine !== asked) return;
    $("hits").replaceChildren();
    $("pages").hidden = true;
    $("status").className = "bad";
    $("status").textContent = error.message;
  }
}

// --- what is shown ---------------------------------------------------------------------------------

function show(wanted) {  // the form as the address says
  $("text").value = wanted.text ?? "";
  $("bits").value = wanted.bits ?? "";
  $("order").value = wanted.order ?? "";
  const [column, value] = Object.entries(wanted.filter ? JSON.parse(wanted.filter) : {})[0] ?? ["", ""];
  $("column").value = column;
  offer(column);
  if (column) $("value").value = JSON.stringify(value);
}

const caption = (id, columns) => String(columns.caption ?? columns.annotation ??
  Object.values(columns).find(value => typeof value === "string") ?? `item ${id}`);

function draw(place, id, columns) {  // an item's picture, or its character, or nothing
  place.replaceChildren();
  if (health.images && columns.image_file) {
    const image = new Image();
    Object.assign(image, {src: `items/${id}/image`, alt: "", loading: "lazy"});
    image.onerror = () => image.remove();
    place.append(image);
  } else if (columns.emoji && !/\p{Co}/u.test(columns.emoji)) {  // which only a font of its own can show
    place.classList.add("sign");
    place.textContent = columns.emoji;
  }
}

async function describe(wanted) {  // the query, above the results
  const box = $("query");
  if (!wanted.item && !wanted.picture) return void (box.hidden = true);
  const image = document.createElement("span"), words = document.createElement("span");
  image.className = "picture";
  if (wanted.picture) {
    const thumbnail = new Image();
    Object.assign(thumbnail, {src: URL.createObjectURL(picture), alt: ""});
    image.append(thumbnail);
    words.textContent = `Items like ${picture.name || "the picture"}`;
  } else {
    const {id, columns} = await json(await fetch(`items/${encodeURIComponent(wanted.item)}`));
    draw(image, id, columns);
    words.textContent = `Items like: ${caption(id, columns)}`;
  }
  box.replaceChildren(image, words);
  box.hidden = false;
}

function list(answer, wanted) {
  const hits = answer.hits ?? answer.items, first = answer.offset + 1, last = answer.offset + hits.length;
  $("hits").replaceChildren(...hits.map(({id, columns, rank, distance, score}) => {
    const card = $("card").content.cloneNode(true);
    draw(card.querySelector(".picture"), id, columns);
    card.querySelector(".caption").textContent = caption(id, columns);
    card.querySelector(".numbers").textContent = rank === undefined ? `id ${id}` :
      `${rank}. distance ${distance}` + (score === undefined ? "" : `, score\u00a0${score.toFixed(2)}`);
    const link = card.querySelector("a"), address = new URLSearchParams({item: id});
    for (const name of ["filter", "bits", "order"]) if (wanted[name]) address.set(name, wanted[name]);
    link.href = `?${address}`;
    link.title = caption(id, columns);
    link.onclick = event => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;  // in another tab
      event.preventDefault();
      go({item: id});
      scrollTo(0, 0);
    };
    return card;
  }));
  const browsing = answer.items !== undefined, total = answer.total.toLocaleString("en");
  $("status").textContent = browsing ? "Items of the index: click one to find others like it." :
    hits.length ? `The nearest ${total}` : "Nothing found.";
  $("range").textContent = hits.length ? `${first}–${last} of ${total}` : "";
  $("previous").disabled = answer.offset === 0;
  $("next").disabled = last >= answer.total || !hits.length;
  $("pages").hidden = $("previous").disabled && $("next").disabled;
}

let values = {};

function offer(column) {  // the values of a column
  $("value-label").hidden = !column;
  $("value").replaceChildren(...(values[column] ?? []).map(value => new Option(value, JSON.stringify(value))));
}

// --- what is done with it --------------------------------------------------------------------------

function search(file) {
  if (!file) return;
  picture = file;
  go({picture: true});
}

$("form").onsubmit = event => {
  event.preventDefault();
  go({text: $("text").value.trim()});
};
$("file").onchange = () => { search($("file").files[0]); $("file").value = ""; };
$("choose").onkeydown = event => {
  if (event.key !== "Enter" && event.key !== " ") return;
  event.preventDefault();
  $("file").click();
};
$("column").onchange = () => { offer($("column").value); go({}, {keep: true}); };
for (const id of ["value", "bits", "order"]) $(id).onchange = () => go({}, {keep: true});
for (const [id, step] of [["previous", -PAGE], ["next", PAGE]])
  $(id).onclick = () => { go({offset: Math.max(0, state().offset + step)}, {keep: true}); scrollTo(0, 0); };
onpopstate = () => ask();

const carries = event => [...event.dataTransfer.items].some(item => item.kind === "file");
for (const [name, act] of Object.entries({
  dragover: event => { if (carries(event)) { event.preventDefault(); $("drop").hidden = false; } },
  dragleave: event => { if (!event.relatedTarget) $("drop").hidden = true; },
  drop: event => { event.preventDefault(); $("drop").hidden = true; search(event.dataTransfer.files[0]); },
  paste: event => search([...event.clipboardData.files].find(file => file.type.startsWith("image/"))),
})) document.addEventListener(name, act);

async function start() {
  try {
    health = await json(await fetch("health"));
    values = await json(await fetch("values"));
  } catch (error) {
    $("status").className = "bad";
    $("status").textContent = error.message;
    return;
  }
  const {index, encoders} = health, without = {text: "words", image: "pictures"};
  $("about").textContent = `${index.items.toLocaleString("en")} items, codes of ${index.bits} bits`;
  $("column").append(...Object.keys(values).map(name => new Option(name, name)));
  $("bits").append(...[...index.lengths].reverse().map(bits => new Option(bits, bits === index.bits ? "" : bits)));
  const orders = {...(index.rescore && {rescore: "rescored"}), hamming: "Hamming distance", rerank: "reranked"};
  $("order").append(...Object.entries(orders).map(([name, label]) => new Option(label, name === best() ? "" : name)));
  const missing = Object.keys(without).filter(modality => encoders[modality] !== "ready");
  const reasons = new Map(missing.map(modality => [encoders[modality], []]));
  for (const modality of missing) reasons.get(encoders[modality]).push(without[modality]);
  $("hint").hidden = !missing.length;
  $("hint").textContent = [...reasons].map(
    ([reason, names]) => `No search by ${names.join(" or ")} here: ${reason}.`).join(" ");
  $("text").hidden = $("submit").hidden = missing.includes("text");
  $("choose").hidden = missing.includes("image");
  ask();
}
start();
