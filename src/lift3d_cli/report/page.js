"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (selector, root = document) => root.querySelector(selector);

// ---- two pictures and the handle between them -----------------------------------------------------------------------
function compare(section) {
  const box = $(".compare", section), cut = $("input", box), frame = $(".frame", section), out = $("output", section);
  let pair = data.pairs[0];
  const show = () => {
    const [name, left, right] = pair.frames[frame.value];
    $(".under", box).src = left;
    $(".over", box).src = right;
    $(".under", box).alt = `${pair.left}, viewpoint ${name}`;
    $(".over", box).alt = `${pair.right}, viewpoint ${name}`;
    $(".left", box).textContent = pair.left;
    $(".right", box).textContent = pair.right;
    out.textContent = name;
    highlight?.(name);
  };
  const tabs = data.pairs.map((each) => {
    const tab = document.createElement("button");
    tab.textContent = `${each.left} | ${each.right}`;
    tab.setAttribute("role", "tab");
    tab.onclick = () => {
      pair = each;
      tabs.forEach((other) => other.setAttribute("aria-selected", other === tab));
      const legend = $(".legend", section);
      legend.replaceChildren(...each.legend.map(([name, color]) => {
        const item = document.createElement("span"), dot = document.createElement("b");
        dot.className = "dot";
        dot.style.background = color;
        item.append(dot, ` ${name}`);
        return item;
      }));
      show();
    };
    return tab;
  });
  $(".tabs", section).append(...tabs);
  frame.max = pair.frames.length - 1;
  frame.value = Math.floor(pair.frames.length / 2);
  box.style.setProperty("--ratio", pair.ratio);
  cut.oninput = () => box.style.setProperty("--cut", `${cut.value / 10}%`);
  frame.oninput = show;
  tabs[0].click();
}

// ---- videos that keep step: the first leads, the others are put right when they drift -------------------------------
function synchronize(row, clips) {
  const videos = [...row.querySelectorAll("video")], [leader, ...others] = videos;
  const play = $("button", row.nextElementSibling), seek = $("input", row.nextElementSibling);
  videos.forEach((video, n) => {
    const bytes = Uint8Array.from(atob(clips[n].mp4), (c) => c.charCodeAt(0));
    video.src = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
  });
  const tolerance = 0.5 / clips[0].fps;
  const follow = () => others.forEach((video) => {
    if (!video.seeking && Math.abs(video.currentTime - leader.currentTime) > tolerance) video.currentTime = leader.currentTime;
  });
  const run = (on) => videos.forEach((video) => (on ? video.play().catch(() => {}) : video.pause()));
  const again = () => { videos.forEach((video) => { video.currentTime = 0; }); run(true); };
  const tick = () => {
    if (!leader.paused) {
      seek.value = 1000 * leader.currentTime / (leader.duration || 1);
      follow();
    }
    requestAnimationFrame(tick);
  };
  leader.onended = again;
  leader.onplay = leader.onpause = () => { play.textContent = leader.paused && !leader.ended ? "Play" : "Pause"; };
  play.onclick = () => run(leader.paused);
  seek.oninput = () => {
    run(false);
    videos.forEach((video) => { video.currentTime = Math.min(seek.value / 1000 * leader.duration, leader.duration - 1e-3); });
  };
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) {
    new IntersectionObserver(([entry]) => run(entry.isIntersecting), { threshold: 0.3 }).observe(row);
  }
  tick();
}

// ---- the 3-D plot: a turntable camera and the painter's algorithm on a 2-D canvas -----------------------------------
function plot(section) {
  const canvas = $("canvas", section), context = canvas.getContext("2d"), tip = $("figure", section);
  const view = { yaw: 0.5, pitch: 0.4, zoom: 1.3 }, touches = new Map(), shown = {};
  let hovered = null, marked = null, spots = [], queued = false, width = 0, height = 0;
  const draw = () => { if (!queued) { queued = true; requestAnimationFrame(paint); } };
  const pictures = data.plot.photos.map((photo) => {
    const image = new Image();
    image.onload = draw;
    image.src = photo.picture;
    return image;
  });
  const color = (name) => getComputedStyle(canvas).getPropertyValue(name);
  const project = ([x, y, z]) => {  // to [x, y, distance] on the screen
    const [c, s, cp, sp] = [Math.cos(view.yaw), Math.sin(view.yaw), Math.cos(view.pitch), Math.sin(view.pitch)];
    const right = c * x + s * y, ahead = -s * x + c * y, far = 3 + cp * ahead - sp * z, up = cp * z + sp * ahead;
    const scale = 1.3 * view.zoom * Math.min(width, height) / Math.max(far, 0.05);
    return [width / 2 + scale * right, height / 2 - scale * up, far];
  };
  const frustum = (camera, stroke, image, line) => {
    const [apex, ...corners] = camera.at.map(project);
    if (image?.complete && image.naturalWidth) {  // the image plane is small: its perspective is left out
      const [a, b, , d] = corners;
      context.save();
      context.transform((b[0] - a[0]) / image.width, (b[1] - a[1]) / image.width, (d[0] - a[0]) / image.height, (d[1] - a[1]) / image.height, a[0], a[1]);
      context.drawImage(image, 0, 0);
      context.restore();
    }
    context.beginPath();
    corners.forEach((corner, n) => { context.moveTo(apex[0], apex[1]); context.lineTo(corner[0], corner[1]); context.lineTo(...corners[(n + 1) % 4]); });
    context.strokeStyle = stroke;
    context.lineWidth = line;
    context.stroke();
    return [apex, ...corners];
  };
  function paint() {
    queued = false;
    const ratio = devicePixelRatio || 1;
    [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    context.scale(ratio, ratio);
    spots = [];
    if (shown.points) for (const point of data.plot.points) {
      const [x, y, far] = project(point), size = Math.max(1.2, 5 * view.zoom / far);
      context.fillStyle = `rgb(${point[3]} ${point[4]} ${point[5]})`;
      context.fillRect(x - size / 2, y - size / 2, size, size);
    }
    if (shown.path) {
      context.beginPath();
      data.plot.path.forEach((camera, n) => context[n ? "lineTo" : "moveTo"](...project(camera.at[0])));
      context.strokeStyle = color("--second");
      context.lineWidth = 2.5;
      context.stroke();
      data.plot.path.forEach((camera) => {
        if (camera.name === marked) return frustum(camera, color("--second"), null, 2.5);
        const [x, y] = project(camera.at[0]);
        context.fillStyle = color("--second");
        context.fillRect(x - 2, y - 2, 4, 4);
      });
    }
    if (shown.photos) {
      data.plot.photos.map((photo, n) => [photo, n, project(photo.at[0])[2]]).sort((a, b) => b[2] - a[2]).forEach(([photo, n]) => {
        spots.push([n, frustum(photo, color("--accent"), pictures[n], n === hovered ? 3 : 1.2)]);
      });
    }
  }
  const inside = (x, y, corners) => corners.reduce((odd, [ax, ay], n) => {
    const [bx, by] = corners[(n + 1) % corners.length];
    return (ay > y) !== (by > y) && x < (bx - ax) * (y - ay) / (by - ay) + ax ? !odd : odd;
  }, false);
  const point = (event) => {
    const [x, y] = [event.offsetX, event.offsetY];
    const hit = [...spots].reverse().find(([, [apex, ...corners]]) => inside(x, y, corners) || Math.hypot(x - apex[0], y - apex[1]) < 8);
    if ((hit ? hit[0] : null) !== hovered) { hovered = hit ? hit[0] : null; draw(); }
    tip.hidden = hovered === null;
    if (hovered === null) return;
    $("img", tip).src = data.plot.photos[hovered].picture;
    $("figcaption", tip).textContent = data.plot.photos[hovered].name;
    tip.style.left = `${Math.min(Math.max(x, 96), width - 96)}px`;
    tip.style.top = `${Math.min(y, height - 180)}px`;
  };
  const spread = () => { const [a, b] = [...touches.values()]; return Math.hypot(a[0] - b[0], a[1] - b[1]); };
  const zoom = (factor) => { view.zoom = Math.min(12, Math.max(0.3, view.zoom * factor)); draw(); };
  canvas.onpointerdown = (event) => { touches.set(event.pointerId, [event.clientX, event.clientY]); canvas.setPointerCapture(event.pointerId); point(event); };
  canvas.onpointerup = canvas.onpointercancel = (event) => touches.delete(event.pointerId);
  canvas.onpointerleave = () => { hovered = null; tip.hidden = true; draw(); };
  canvas.onpointermove = (event) => {
    const before = touches.get(event.pointerId), gap = touches.size === 2 && spread();
    if (!before) return point(event);
    touches.set(event.pointerId, [event.clientX, event.clientY]);
    if (gap) return zoom(spread() / gap);
    view.yaw -= (event.clientX - before[0]) / 160;
    view.pitch = Math.min(1.5, Math.max(-1.5, view.pitch + (event.clientY - before[1]) / 160));
    draw();
  };
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(-event.deltaY / 600)); }, { passive: false });
  canvas.onkeydown = (event) => {
    const turn = { ArrowLeft: ["yaw", 0.1], ArrowRight: ["yaw", -0.1], ArrowUp: ["pitch", 0.1], ArrowDown: ["pitch", -0.1] }[event.key];
    if (turn) { view[turn[0]] += turn[1]; event.preventDefault(); draw(); }
  };
  section.querySelectorAll(".toggles input").forEach((box) => { (box.onchange = () => { shown[box.name] = box.checked; draw(); })(); });
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  return (name) => { marked = name; draw(); };
}

const highlight = plot($("#cameras"));
if ($("#compare")) compare($("#compare"));
document.querySelectorAll(".videos").forEach((row, n) => synchronize(row, data.videos[n]));
