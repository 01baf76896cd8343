// Solves three trained models live: the field, the steps and the decision line are those of the Python package.
// No dependency, no request: `explorer-data.js`, written when the site is built, holds weights and test samples.
(function () {
  "use strict";

  const DATA = window.NEURALODE_EXPLORER;
  const SHOWN = 160;             // samples whose trajectories are drawn
  const FRAMES_PER_SECOND_OF_FLOW = 1 / 1.6;  // the unit time interval takes 1.6 seconds
  const LINEAR_UP_TO = 0.35;     // coordinates are linear below and logarithmic above, so that start and end both fit

  // Butcher tableaus: rows of a, weights b. The same numbers as in solvers/tableaus.
  const METHODS = {
    euler: { name: "Euler", a: [[]], b: [1] },
    midpoint: { name: "midpoint", a: [[], [1 / 2]], b: [0, 1] },
    rk4: { name: "rk4", a: [[], [1 / 2], [0, 1 / 2], [0, 0, 1]], b: [1 / 6, 1 / 3, 1 / 3, 1 / 6] },
  };

  // --- numerics -----------------------------------------------------------------------------------------------------

  // A field of dense layers with ReLU between them: x -> W x + b, states of two numbers.
  function evaluate(layers, x, y, out) {
    let input = [x, y];
    for (let l = 0; l < layers.length; l++) {
      const { weight, bias } = layers[l];
      const last = l === layers.length - 1;
      const output = new Float64Array(bias.length);
      for (let o = 0; o < bias.length; o++) {
        const row = weight[o];
        let sum = bias[o];
        for (let i = 0; i < input.length; i++) sum += row[i] * input[i];
        output[o] = last || sum > 0 ? sum : 0;
      }
      input = output;
    }
    out[0] = input[0];
    out[1] = input[1];
  }

  // States at all nodes, [x0, y0, x1, y1, …], of one sample.
  function solve(model, method, nSteps, x, y) {
    const { a, b } = METHODS[method];
    const h = 1 / nSteps;
    const path = new Float64Array(2 * (nSteps + 1));
    const stages = b.map(() => new Float64Array(2));
    path[0] = x;
    path[1] = y;
    for (let n = 0; n < nSteps; n++) {
      for (let i = 0; i < b.length; i++) {
        let u = x;
        let v = y;
        for (let j = 0; j < i; j++) {
          u += h * a[i][j] * stages[j][0];
          v += h * a[i][j] * stages[j][1];
        }
        evaluate(model.layers, u, v, stages[i]);
      }
      for (let i = 0; i < b.length; i++) {
        x += h * b[i] * stages[i][0];
        y += h * b[i] * stages[i][1];
      }
      path[2 * n + 2] = x;
      path[2 * n + 3] = y;
    }
    return path;
  }

  function predict(model, x, y) {
    const [w0, w1] = model.head.weight;
    const [b0, b1] = model.head.bias;
    const zero = w0[0] * x + w0[1] * y + b0;
    const one = w1[0] * x + w1[1] * y + b1;
    return one > zero ? 1 : 0;
  }

  // Number of test samples that are predicted rightly, computed in slices so that the page stays responsive.
  function countRight(model, method, nSteps, isStale, done) {
    let i = 0;
    let right = 0;
    function slice() {
      if (isStale()) return;
      const until = performance.now() + 12;
      while (i < DATA.x.length && performance.now() < until) {
        const path = solve(model, method, nSteps, DATA.x[i][0], DATA.x[i][1]);
        right += predict(model, path[2 * nSteps], path[2 * nSteps + 1]) === DATA.y[i];
        i++;
      }
      if (i < DATA.x.length) setTimeout(slice, 0);
      else done(right);
    }
    slice();
  }

  // --- scales -------------------------------------------------------------------------------------------------------

  const squash = (z) => Math.asinh(z / LINEAR_UP_TO);
  const expand = (s) => LINEAR_UP_TO * Math.sinh(s);

  // A square window of squashed coordinates that holds the starts and all but the outermost hundredth of the nodes.
  function windowOf(paths) {
    const sides = [0, 1].map((k) => {
      const values = [];
      for (const path of paths) {
        for (let i = k; i < path.length; i += 2) if (Number.isFinite(path[i])) values.push(squash(path[i]));
      }
      values.sort((p, q) => p - q);
      const low = values[Math.floor(0.005 * (values.length - 1))];
      const high = values[Math.ceil(0.995 * (values.length - 1))];
      return [Math.min(low, squash(-0.6)), Math.max(high, squash(0.6))];
    });
    const size = 1.12 * Math.max(...sides.map(([low, high]) => high - low));
    return { size, x: (sides[0][0] + sides[0][1]) / 2, y: (sides[1][0] + sides[1][1]) / 2 };
  }

  // --- page ---------------------------------------------------------------------------------------------------------

  function start(root) {
    const $ = (name) => root.querySelector(`[data-part="${name}"]`);
    const plane = $("plane");
    const chart = $("chart");
    const state = { model: 0, method: DATA.models[0].method, steps: DATA.models[0].steps, time: 1, playing: false };
    const known = {};            // accuracies by model, method and steps
    let paths = [];
    let view = { size: 2, x: 0, y: 0 };
    let version = 0;

    const colors = () => {
      const dark = document.documentElement.dataset.theme === "dark";
      return dark
        ? { zero: "#7fb2ff", one: "#ffb454", zeroFill: "rgba(127,178,255,.14)", oneFill: "rgba(255,180,84,.14)",
            ink: "#e6e6e6", faint: "rgba(230,230,230,.35)", wrong: "#ff6b81", paper: "#14181e" }
        : { zero: "#14407f", one: "#b96a00", zeroFill: "rgba(20,64,127,.10)", oneFill: "rgba(245,167,66,.20)",
            ink: "#222", faint: "rgba(0,0,0,.35)", wrong: "#b3123b", paper: "#ffffff" };
    };

    function prepare(canvas) {
      const scale = window.devicePixelRatio || 1;
      const box = canvas.getBoundingClientRect();
      canvas.width = Math.round(box.width * scale);
      canvas.height = Math.round(box.height * scale);
      const context = canvas.getContext("2d");
      context.setTransform(scale, 0, 0, scale, 0, 0);
      return [context, box.width, box.height];
    }

    function solveShown() {
      const model = DATA.models[state.model];
      paths = [];
      for (let i = 0; i < SHOWN; i++) paths.push(solve(model, state.method, state.steps, DATA.x[i][0], DATA.x[i][1]));
      view = windowOf(paths);
    }

    // The state at a share of the time interval: on the straight line between two nodes.
    function at(path, time) {
      const place = Math.min(time, 1) * state.steps;
      const n = Math.min(Math.floor(place), state.steps - 1);
      const share = place - n;
      return [0, 1].map((k) => path[2 * n + k] + share * (path[2 * n + 2 + k] - path[2 * n + k]));
    }

    function drawPlane() {
      const [c, width, height] = prepare(plane);
      const look = colors();
      const model = DATA.models[state.model];
      const size = Math.min(width, height);
      const px = (z) => width / 2 + ((squash(z) - view.x) / view.size) * size;
      const py = (z) => height / 2 - ((squash(z) - view.y) / view.size) * size;
      c.fillStyle = look.paper;
      c.fillRect(0, 0, width, height);
      const cell = 3;
      for (let i = 0; i < width; i += cell) {
        for (let j = 0; j < height; j += cell) {
          const x = expand(view.x + ((i + cell / 2 - width / 2) / size) * view.size);
          const y = expand(view.y - ((j + cell / 2 - height / 2) / size) * view.size);
          c.fillStyle = predict(model, x, y) ? look.oneFill : look.zeroFill;
          c.fillRect(i, j, cell, cell);
        }
      }
      drawAxes(c, look, px, py, width, height);
      c.lineWidth = 0.8;
      for (let i = 0; i < SHOWN; i++) {
        const path = paths[i];
        c.strokeStyle = DATA.y[i] ? look.one : look.zero;
        c.globalAlpha = 0.35;
        c.beginPath();
        c.moveTo(px(path[0]), py(path[1]));
        const place = state.time * state.steps;
        for (let n = 1; n <= Math.floor(place); n++) c.lineTo(px(path[2 * n]), py(path[2 * n + 1]));
        const here = at(path, state.time);
        c.lineTo(px(here[0]), py(here[1]));
        c.stroke();
      }
      c.globalAlpha = 1;
      for (let i = 0; i < SHOWN; i++) {
        const path = paths[i];
        const here = at(path, state.time);
        const color = DATA.y[i] ? look.one : look.zero;
        c.strokeStyle = color;
        c.lineWidth = 0.8;
        c.beginPath();
        c.arc(px(path[0]), py(path[1]), 1.8, 0, 7);
        c.stroke();
        mark(c, px(here[0]), py(here[1]), DATA.y[i], color);
        const isWrong = state.time >= 1 && predict(model, here[0], here[1]) !== DATA.y[i];
        if (!isWrong) continue;
        c.strokeStyle = look.wrong;
        c.lineWidth = 1.6;
        c.beginPath();
        c.arc(px(here[0]), py(here[1]), 6, 0, 7);
        c.stroke();
      }
    }

    // Class 0 is a disc, class 1 a square, so that colour is not the only difference.
    function mark(c, x, y, label, color) {
      c.fillStyle = color;
      if (label) c.fillRect(x - 2.8, y - 2.8, 5.6, 5.6);
      else {
        c.beginPath();
        c.arc(x, y, 3.1, 0, 7);
        c.fill();
      }
    }

    function drawAxes(c, look, px, py, width, height) {
      c.fillStyle = look.ink;
      c.strokeStyle = look.faint;
      c.lineWidth = 0.6;
      c.font = "11px sans-serif";
      const largest = expand(Math.max(Math.abs(view.x), Math.abs(view.y)) + view.size / 2);
      for (let power = 0; 10 ** power <= largest; power += largest > 1e6 ? 4 : largest > 1e3 ? 2 : 1) {
        for (const sign of [-1, 1]) {
          const value = sign * 10 ** power;
          const text = power > 3 ? `${sign < 0 ? "−" : ""}10${superscript(power)}` : String(value).replace("-", "−");
          if (px(value) > 40 && px(value) < width - 20) {
            c.beginPath();
            c.moveTo(px(value), height);
            c.lineTo(px(value), height - 5);
            c.stroke();
            c.textAlign = "center";
            c.fillText(text, px(value), height - 9);
          }
          if (py(value) > 14 && py(value) < height - 30) {
            c.beginPath();
            c.moveTo(0, py(value));
            c.lineTo(5, py(value));
            c.stroke();
            c.textAlign = "left";
            c.fillText(text, 8, py(value) + 4);
          }
        }
      }
    }

    const superscript = (n) => String(n).split("").map((d) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]).join("");

    const CHART_STEPS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];

    function drawChart() {
      const [c, width, height] = prepare(chart);
      const look = colors();
      const model = DATA.models[state.model];
      const left = 44;
      const bottom = height - 34;
      const px = (n) => left + (Math.log2(n) / 6) * (width - left - 14);
      const py = (share) => 12 + (1 - (share - 0.4) / 0.6) * (bottom - 12);
      c.fillStyle = look.paper;
      c.fillRect(0, 0, width, height);
      c.font = "11px sans-serif";
      c.strokeStyle = look.faint;
      c.fillStyle = look.ink;
      c.textAlign = "right";
      for (const share of [0.5, 0.6, 0.7, 0.8, 0.9, 1]) {
        c.lineWidth = share === 0.5 ? 1 : 0.4;
        c.beginPath();
        c.moveTo(left, py(share));
        c.lineTo(width - 8, py(share));
        c.stroke();
        c.fillText(`${Math.round(100 * share)} %`, left - 6, py(share) + 4);
      }
      c.textAlign = "center";
      for (const n of [1, 2, 4, 8, 16, 32, 64]) c.fillText(String(n), px(n), bottom + 15);
      c.fillText("number of steps", (left + width) / 2, bottom + 30);
      c.setLineDash([4, 3]);
      c.strokeStyle = look.ink;
      c.lineWidth = 1;
      c.beginPath();
      c.moveTo(px(model.steps), 12);
      c.lineTo(px(model.steps), bottom);
      c.stroke();
      c.setLineDash([]);
      const points = CHART_STEPS.concat([state.steps]).filter((n, i, all) => all.indexOf(n) === i).sort((p, q) => p - q)
        .map((n) => [n, known[key(state.model, state.method, n)]]).filter(([, right]) => right !== undefined);
      c.strokeStyle = look.zero;
      c.lineWidth = 2;
      c.beginPath();
      points.forEach(([n, right], i) => c[i ? "lineTo" : "moveTo"](px(n), py(right / DATA.x.length)));
      c.stroke();
      for (const [n, right] of points) {
        c.fillStyle = n === state.steps ? look.wrong : look.zero;
        c.beginPath();
        c.arc(px(n), py(right / DATA.x.length), n === state.steps ? 5.5 : 3, 0, 7);
        c.fill();
      }
    }

    const key = (model, method, steps) => `${model} ${method} ${steps}`;
    const share = (right) => `${((100 * right) / DATA.x.length).toFixed(1)} %`;

    function say() {
      const model = DATA.models[state.model];
      const right = known[key(state.model, state.method, state.steps)];
      const step = state.steps === 1 ? "1 step" : `${state.steps} steps`;
      const isOwn = state.method === model.method && state.steps === model.steps;
      root.dataset.right = right === undefined ? "" : right;
      $("accuracy").textContent = right === undefined ? "…" : share(right);
      $("sentence").textContent = `${METHODS[state.method].name}, ${step}` +
        (isOwn ? ", the solver of the training." : `. ${model.trained}`);
      $("stepsText").textContent = state.steps === 1 ? "1 (h = 1)" : `${state.steps} (h = 1/${state.steps})`;
      $("steps").setAttribute("aria-valuetext", step);
      $("what").textContent = model.what;
    }

    // The accuracy asked for first, then the rest of the curve.
    function measure() {
      const mine = ++version;
      const { model, method } = state;
      const waiting = [state.steps, ...CHART_STEPS].filter((n) => known[key(model, method, n)] === undefined);
      function next() {
        if (mine !== version || !waiting.length) return;
        const n = waiting.shift();
        countRight(DATA.models[model], method, n, () => mine !== version, (right) => {
          known[key(model, method, n)] = right;
          say();
          drawChart();
          setTimeout(next, 0);
        });
      }
      next();
    }

    function update() {
      solveShown();
      say();
      drawPlane();
      drawChart();
      measure();
    }

    function play() {
      if (state.playing) return;
      state.playing = true;
      state.time = 0;
      let before = null;
      function frame(now) {
        if (before !== null) state.time = Math.min(1, state.time + ((now - before) / 1000) * FRAMES_PER_SECOND_OF_FLOW);
        before = now;
        drawPlane();
        if (state.time < 1) requestAnimationFrame(frame);
        else state.playing = false;
      }
      if (window.matchMedia("(prefers-reduced-motion: reduce)").matches) {
        state.time = 1;
        state.playing = false;
        drawPlane();
      } else requestAnimationFrame(frame);
    }

    root.querySelectorAll('input[name="explorer-model"]').forEach((input) => input.addEventListener("change", () => {
      state.model = Number(input.value);
      const model = DATA.models[state.model];
      Object.assign(state, { method: model.method, steps: model.steps, time: 1 });
      $("method").value = state.method;
      $("steps").value = indexOf(state.steps);
      update();
      play();
    }));
    const STEPS = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64];
    const indexOf = (n) => STEPS.indexOf(n);
    $("steps").max = STEPS.length - 1;
    $("steps").value = indexOf(state.steps);
    $("steps").addEventListener("input", () => {
      state.steps = STEPS[Number($("steps").value)];
      state.time = 1;
      update();
    });
    $("method").value = state.method;
    $("method").addEventListener("change", () => {
      state.method = $("method").value;
      state.time = 1;
      update();
    });
    $("play").addEventListener("click", play);
    const redraw = () => { drawPlane(); drawChart(); };
    new MutationObserver(redraw).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    window.addEventListener("resize", redraw);
    root.hidden = false;
    update();
    play();
  }

  document.addEventListener("DOMContentLoaded", () => {
    const root = document.getElementById("explorer");
    if (root && DATA) start(root);
  });
})();
