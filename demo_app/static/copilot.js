// Asks the copilot and shows its answer while it arrives. EventSource can only GET, so the stream is read by hand.

const form = document.querySelector("#ask");
const input = form.elements.question;
const conversation = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

form.addEventListener("submit", (event) => {
  event.preventDefault();
  ask(input.value);
});
for (const chip of document.querySelectorAll(".chip")) {
  chip.addEventListener("click", () => ask(chip.dataset.question.trim()));
}

async function ask(question) {
  const card = document.querySelector("#answer").content.firstElementChild.cloneNode(true);
  card.querySelector("h2").textContent = question;
  document.querySelector("#answers").prepend(card);
  setBusy(true);
  try {
    const response = await fetch("/qa", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ question, conversation_id: conversation }),
    });
    nameRequest(response.headers.get("X-Request-ID"));
    if (!response.ok) throw new Error(`The server answered ${response.status}.`);
    for await (const [name, data] of events(response.body)) show[name]?.(card, data);
  } catch (error) {
    show.failed(card, { message: error.message });
  } finally {
    setBusy(false);
    input.value = "";
    input.focus();
  }
}

const show = {
  plan: (card, plan) => step(card, `${plan.metric} by ${plan.group_by}, last ${plan.days} days`),
  rows: (card, rows) => step(card, `${rows.length} rows`),
  text: (card, text) => card.querySelector(".text").append(text),
  done: (card, { url }) => step(card, "trace", url),
  failed: (card, { message, url }) => {
    card.classList.add("failed");
    card.querySelector(".text").textContent = message;
    if (url) step(card, "trace", url);
  },
};

function step(card, text, url) {
  const steps = card.querySelector(".steps");
  const link = url && Object.assign(document.createElement("a"), { href: url, target: "metricx-receiver", textContent: text });
  steps.append(steps.hasChildNodes() ? " → " : "", link || text);
}

// The footer names the page's own request until a question has one, under which its trace is found.
function nameRequest(id) {
  if (!id) return; // without telemetry requests have none
  const footer = document.querySelector("#request");
  footer.querySelector("span").textContent = "Request of the last question";
  footer.querySelector("code").textContent = id;
  const link = footer.querySelector("a");
  if (link) link.href = new URL(`/requests/${encodeURIComponent(id)}`, link.href);
}

function setBusy(busy) {
  for (const button of document.querySelectorAll("main button")) button.disabled = busy;
}

async function* events(body) {
  let buffer = "";
  for await (const chunk of chunks(body.pipeThrough(new TextDecoderStream()))) {
    buffer += chunk;
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n");
      const field = (name) => lines.filter((line) => line.startsWith(`${name}: `)).map((line) => line.slice(name.length + 2)).join("\n");
      if (field("event")) yield [field("event"), JSON.parse(field("data"))];
    }
  }
}

// A reader, because Safari cannot iterate a stream.
async function* chunks(stream) {
  const reader = stream.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
}
