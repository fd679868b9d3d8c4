// Draws the page's arrangements with 3Dmol.js, and sorts the table beside them. Lengths are in voxels.
"use strict";
(() => {
  const held = JSON.parse(document.getElementById("models").textContent);
  const stage = document.getElementById("stage"), flow = document.getElementById("flow");
  const viewer = window.$3Dmol.createViewer(stage, { backgroundColor: "white", antialias: true, disableFog: false });
  const L = held.box;
  const point = (x, y, z) => ({ x: x - L / 2, y: y - L / 2, z: z - L / 2 });
  let current = 0, drawn = null;

  // The twelve edges join corners that differ in one of three bits.
  function box() {
    const shape = viewer.addShape({ color: "#6B7280" }), edge = { radius: 0.0035 * L, fromCap: 1, toCap: 1 };
    const corner = (i) => point((i & 1) * L, ((i >> 1) & 1) * L, ((i >> 2) & 1) * L);
    for (let i = 0; i < 8; i++)
      for (const bit of [1, 2, 4])
        if (!(i & bit)) shape.addCylinder({ start: corner(i), end: corner(i | bit), ...edge });
  }

  // From sphere a to the nearest image of b, cut where it leaves the box.
  function stick(shape, a, b) {
    const v = [0, 1, 2].map((k) => b[k] - a[k] - L * Math.round((b[k] - a[k]) / L));
    if (Math.hypot(...v) >= held.touch) return;
    const walls = v.map((d, k) => (d > 0 ? (L - a[k]) / d : d < 0 ? -a[k] / d : Infinity));
    const part = Math.min(1, ...walls), crosses = part < 1;
    const end = a.map((x, k) => x + part * v[k]);
    shape.addCylinder({ start: point(...a), end: point(...end), radius: 0.24 * held.radius });
    if (crosses) stickBack(shape, b, v);
  }

  function stickBack(shape, b, v) {
    const walls = v.map((d, k) => (d < 0 ? (L - b[k]) / -d : d > 0 ? b[k] / d : Infinity));
    const part = Math.min(1, ...walls);
    const end = b.map((x, k) => x - part * v[k]);
    shape.addCylinder({ start: point(...b), end: point(...end), radius: 0.24 * held.radius });
  }

  function spheres(model, opacity) {
    const n = model.colors.length;
    const at = Array.from({ length: n }, (_, i) => model.centers.slice(3 * i, 3 * i + 3));
    for (let i = 0; i < n; i++) { // a shape has one colour
      const shape = viewer.addShape({ color: model.colors[i], opacity });
      shape.addSphere({ center: point(...at[i]), radius: held.radius, quality: 2 });
      for (let j = i + 1; j < n; j++) stick(shape, at[i], at[j]);
    }
  }

  // Each line is a thin tube with an arrow head in its middle.
  function lines(pieces) {
    const heads = viewer.addShape({ color: "#D55E00" }), style = { radius: 0.0032 * L, fromCap: 1, toCap: 1 };
    for (const piece of pieces) {
      const shape = viewer.addShape({ color: "#1D2126" }), n = piece.length / 3;
      const at = (k) => point(piece[3 * k], piece[3 * k + 1], piece[3 * k + 2]);
      for (let k = 0; k + 1 < n; k++) shape.addCylinder({ start: at(k), end: at(k + 1), ...style });
      const k = Math.max(0, Math.floor(n / 2) - 1);
      if (n > 3) heads.addArrow({ start: at(k), end: at(k + 1), radius: 0.004 * L, radiusRatio: 3, mid: 0.05 });
    }
  }

  function draw() {
    const model = held.models[current], axis = model.lines ? flow.value : "";
    flow.disabled = !model.lines;
    viewer.removeAllShapes();
    box();
    spheres(model, axis ? 0.55 : 1);
    if (axis && model.lines[axis]) lines(model.lines[axis]);
    const word = axis ? `, current along ${axis}` : model.lines ? "" : " (the current is drawn of the three above only)";
    document.getElementById("title").textContent = model.title + word;
    if (drawn === null) { viewer.zoomTo(); viewer.rotate(-70, "x"); viewer.rotate(25, "z"); }
    viewer.render();
    drawn = current;
    for (const e of document.querySelectorAll("[data-model]"))
      e.classList.toggle("on", Number(e.dataset.model) === current);
  }

  for (const e of document.querySelectorAll("[data-model]")) {
    const choose = () => { current = Number(e.dataset.model); draw(); };
    e.addEventListener("click", choose);
    if (e.tagName === "TR") e.addEventListener("keydown", (k) => { if (k.key === "Enter") choose(); });
  }
  flow.addEventListener("change", draw);
  window.addEventListener("resize", () => { viewer.resize(); viewer.render(); });

  const table = document.getElementById("structures"), heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    const value = (row) => { const text = row.cells[column].textContent; return text !== "" && isFinite(text) ? Number(text) : text; };
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const x = value(a), y = value(b);
      return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
    });
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    table.tBodies[0].append(...rows);
  }));
  draw();
})();
