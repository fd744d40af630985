// Two sounds at one position: what plays switches at once, and a blind test keeps score.
const find = selector => element.querySelector(selector), all = selector => [...element.querySelectorAll(selector)];
let side = "a", hidden = null, right = 0, asked = 0;
const sound = name => find("audio." + name);
const playing = () => !sound("a").paused || !sound("b").paused;
const say = text => find(".note").textContent = text;
function listen(name) {
  const position = sound(side).currentTime, on = playing();
  sound("a").pause(); sound("b").pause();
  side = name;
  sound(side).currentTime = position;
  if (on) sound(side).play();
}
function choose(name, label) {
  listen(name);
  all(".side").forEach(b => b.setAttribute("aria-pressed", String(label === b.dataset.side)));
}
function draw() {
  hidden = Math.random() < 0.5 ? "a" : "b";
}
function load() {
  let sounds = {};
  try { sounds = JSON.parse(props.value || "{}"); } catch { /* nothing yet */ }
  for (const name of ["a", "b"]) {
    sound(name).pause();
    if (sounds[name]) sound(name).src = sounds[name]; else sound(name).removeAttribute("src");
  }
  find(".play").disabled = !sounds.b;
  find(".play").textContent = "Play";
  find('.side[data-side="a"]').disabled = find(".blind").disabled = !sounds.a;
  choose(sounds.a ? "a" : "b", sounds.a ? "a" : "b");
  if (sounds.b && !sounds.a) say("Tokens hold no original to compare with.");
  else if (!sounds.b) say("Encode a sound, then switch between the two while it plays.");
  else say("");
}
element.addEventListener("click", event => {
  const button = event.target.closest("button");
  if (!button || button.disabled) return;
  if (button.matches(".play")) playing() ? (sound("a").pause(), sound("b").pause()) : sound(side).play();
  if (button.matches(".side")) choose(button.dataset.side, button.dataset.side);
  if (button.matches(".blind")) {
    const on = find(".ask").hidden;
    find(".ask").hidden = !on;
    button.setAttribute("aria-pressed", String(on));
    right = asked = 0;
    if (on) { draw(); say("Hear X, compare it with the two, then say which it is."); } else { hidden = null; say(""); }
  }
  if (button.matches(".x") && hidden) { choose(hidden, "x"); sound(side).play(); }
  if (button.matches(".guess") && hidden) {
    asked++;
    const good = button.dataset.side === hidden;
    if (good) right++;
    say((good ? "Right" : "Wrong") + ": " + right + " of " + asked + ". X is drawn anew.");
    draw();
  }
});
find(".seek").addEventListener("input", event => {
  const audio = sound(side);
  if (audio.duration) audio.currentTime = event.target.value / 1000 * audio.duration;
});
for (const name of ["a", "b"]) {
  for (const kind of ["timeupdate", "play", "pause", "ended"])
    sound(name).addEventListener(kind, () => {
      find(".play").textContent = playing() ? "Pause" : "Play";
      if (name !== side || !sound(side).duration) return;
      find(".seek").value = 1000 * sound(side).currentTime / sound(side).duration;
      find(".time").textContent = sound(side).currentTime.toFixed(1) + " s";
    });
}
load();
watch("value", load);
