"use strict";
// A click on a row plays its videos in step: they begin together, and begin again when the last one has ended.
const toggles = [];
for (const strip of document.querySelectorAll("[data-strip]")) {
  const videos = [...strip.querySelectorAll("video")];
  const button = strip.querySelector("button");
  const slider = strip.querySelector("input");
  let playing = false;
  const start = () => {
    for (const video of videos) {
      if (video.ended) video.currentTime = 0;
      video.play().catch(() => set(false));
    }
  };
  const set = (wanted) => {
    playing = wanted;
    button.textContent = playing ? "Pause" : "Play";
    if (playing) start();
    else videos.forEach((video) => video.pause());
  };
  for (const video of videos) {
    video.addEventListener("ended", () => {
      if (playing && videos.every((each) => each.ended)) start();
    });
  }
  videos[0].addEventListener("timeupdate", () => {
    if (playing) slider.value = videos[0].currentTime / videos[0].duration;
  });
  slider.addEventListener("input", () => {
    set(false);
    for (const video of videos) video.currentTime = slider.value * video.duration;
  });
  strip.addEventListener("click", (event) => {
    if (event.target !== slider) set(!playing);
  });
  toggles.push(set);
}
for (const all of document.querySelectorAll("[data-all]")) {
  let on = false;
  all.addEventListener("click", () => {
    on = !on;
    all.textContent = on ? "Pause all rows" : "Play all rows";
    toggles.forEach((set) => set(on));
  });
}
