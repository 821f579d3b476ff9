"use strict";
// Draws the payload. Strings from documents become text nodes only, never markup.
(() => {
  const payload = JSON.parse(document.getElementById("payload").textContent);
  const options = { actions: false, renderer: "svg", ast: true, config: payload.config };
  const views = {};
  const drawing = [];

  const objects = ({ columns, rows }) =>
    rows.map((row) => Object.fromEntries(columns.map((name, place) => [name, row[place]])));

  const element = (name, text, className) => {
    const node = document.createElement(name);
    if (text !== undefined) node.textContent = text;
    if (className) node.className = className;
    return node;
  };

  const shown = (value) => {
    if (value === null || value === undefined) return "–";
    if (typeof value === "number") return value.toLocaleString("en-US", { maximumSignificantDigits: 5 });
    return String(value).replace(/^(\d{4}-\d\d-\d\d)T(\d\d:\d\d)Z$/, "$1 $2");
  };

  const table = (columns, rows) => {
    const result = element("table");
    const head = result.createTHead().insertRow();
    const isNumber = columns.map((_, place) => rows.some((row) => typeof row[place] === "number"));
    columns.forEach((name, place) => {
      const cell = element("th", name.replaceAll("_", " "), isNumber[place] ? "number" : "");
      cell.scope = "col";
      head.append(cell);
    });
    const body = result.createTBody();
    for (const row of rows) {
      const line = body.insertRow();
      row.forEach((value, place) => {
        const words = typeof value === "string" && value.length > 60;
        line.append(element("td", shown(value), isNumber[place] ? "number" : words ? "words" : ""));
      });
    }
    return result;
  };

  // A chart with one row per agent grows with their number. Vega-Lite computes such a height only
  // for charts of fixed width.
  const heightOf = (specification, rows) => {
    if (!specification.height.step) return specification.height;
    const { field } = (specification.layer?.[0] ?? specification).encoding.y;
    return specification.height.step * new Set(rows.map((row) => row[field])).size;
  };

  const embed = (place, specification, datasets) =>
    window.vegaEmbed(place, {
      ...specification,
      height: heightOf(specification, Object.values(datasets)[0]),
      datasets: { ...specification.datasets, ...datasets },
    }, options);

  // Figures
  for (const section of document.querySelectorAll("main > section")) {
    const data = payload.data[section.id];
    const empty = section.querySelector(".empty");
    if (!data || !empty) continue;
    if (data.rows.length === 0) {
      empty.hidden = false;
      section.querySelectorAll(".chart, .table, .pickers, details").forEach((one) => one.remove());
      continue;
    }
    const chart = section.querySelector(".chart");
    if (!chart) {
      section.querySelector(".table").replaceChildren(table(data.columns, data.rows));
      continue;
    }
    const rows = objects(data);
    const picker = section.querySelector("select");
    const draw = async () => {
      (await views[section.id])?.finalize();
      const chosen = picker ? rows.filter((row) => row.criterion === picker.value) : rows;
      views[section.id] = embed(chart, payload.specifications[section.id], { [section.id]: chosen });
    };
    picker?.addEventListener("change", draw);
    drawing.push(draw().then(() => views[section.id]));
    const numbers = section.querySelector("details");
    numbers.addEventListener("toggle", () => {
      numbers.querySelector(".table").replaceChildren(table(data.columns, data.rows));
    }, { once: true });
  }

  // The newest sessions
  const sessions = objects(payload.data.sessions);
  const find = document.getElementById("find");
  const showSessions = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = sessions.filter((one) => {
      const agents = one.agents.map((number) => payload.agents[number]).join(" ");
      const text = `${one.session_key} ${agents} ${one.why_not ?? ""}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    const columns = ["session", "agents fitted", "best agent", "accuracy", "pipeline", "finished (UTC)", "arrived (UTC)"];
    const rows = found.slice(0, 100).map((one) => [
      one.session_key,
      `${one.agents_fitted} of ${one.agents_tried}`,
      one.best_agent ?? one.why_not,
      one.cv_accuracy === null ? null : `${(100 * one.cv_accuracy).toFixed(1)}%`,
      one.pipelines,
      one.finished_at,
      one.first_seen_at,
    ]);
    const place = document.querySelector("#sessions .table");
    place.replaceChildren(rows.length ? table(columns, rows) : element("p", find.value
      ? `No session among those shown here matches “${find.value}”.${/^\d+$/.test(find.value.trim()) ? " A mouse that is not here has no record of model fitting." : ""}`
      : "No session has been fitted yet.", "empty"));
    place.querySelectorAll("tbody tr").forEach((row, number) => {
      if (found[number].agents_fitted === 0) row.cells[2].className = "none";
    });
    const more = found.length > rows.length ? `, the first ${rows.length} shown` : "";
    document.getElementById("found").textContent = `${found.length.toLocaleString("en-US")} ${found.length === 1 ? "session" : "sessions"}${more}`;
  };
  find.addEventListener("input", showSessions);
  showSessions();

  // Trajectories
  const subject = document.getElementById("subject");
  const agent = document.getElementById("agent");
  const parameters = document.getElementById("parameters");
  const allBounds = objects(payload.data.bounds);
  const bySubject = new Map(payload.trajectories.map((one) => [one.subject, one.agents]));
  const fill = (select, names, chosen) => {
    select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
  };
  // A bound far from every value would squash the values: it is only named above the chart.
  const boundsNear = (bounds, values) => {
    const lowest = Math.min(...values);
    const highest = Math.max(...values);
    const near = Math.max(highest - lowest, 0.5 * Math.max(Math.abs(lowest), Math.abs(highest)));
    return bounds.filter((bound) => bound !== null && bound >= lowest - near && bound <= highest + near)
      .map((bound) => ({ bound }));
  };
  let drawn = [];
  const showTrajectories = async () => {
    drawn.forEach((one) => one.finalize());
    drawn = [];
    const values = bySubject.get(subject.value)[agent.value];
    const bounds = Object.fromEntries(allBounds.filter((one) => one.agent_alias === agent.value)
      .map((one) => [one.parameter, [one.lower, one.upper]]));
    const places = Object.keys(values).map((name) => {
      const place = element("div");
      const chart = element("div", undefined, "chart");
      chart.setAttribute("role", "img");
      chart.setAttribute("aria-label", `${name} of ${subject.value}, ${agent.value}, over its sessions`);
      const heading = element("h3", name);
      const [lower, upper] = bounds[name] ?? [null, null];
      if (lower !== null && upper !== null) heading.append(element("span", ` bounds ${shown(lower)} to ${shown(upper)}`));
      place.append(heading, chart);
      place.dataset.parameter = name;
      return place;
    });
    parameters.replaceChildren(...places);
    drawn = await Promise.all(places.map((place) => {
      const points = values[place.dataset.parameter];
      const near = boundsNear(bounds[place.dataset.parameter] ?? [], points.map((point) => point[2]));
      const chart = payload.trajectory;
      // The first layer draws the bounds, and logs a warning if there are none.
      return embed(place.lastChild, near.length ? chart : { ...chart, layer: chart.layer.slice(1) }, {
        trajectory: points.map(([session, date, value, atBound]) =>
          ({ session, date, value, at_bound: atBound ? "yes" : "no" })),
        bounds: near,
      });
    }));
    history.replaceState(null, "", `#${new URLSearchParams({ subject: subject.value, agent: agent.value })}`);
    parameters.dataset.drawn = `${subject.value} ${agent.value}`;
  };
  const showSubject = () => {
    const agents = Object.keys(bySubject.get(subject.value));
    fill(agent, agents, agents.includes(agent.value) ? agent.value : agents[0]);
    return showTrajectories();
  };
  if (bySubject.size === 0) {
    document.querySelector("#trajectories .pickers").remove();
    parameters.replaceWith(element("p", "No fit with parameters has arrived yet.", "empty"));
  } else {
    // The address keeps the choice: the page can be reloaded, and the link shared.
    const asked = new URLSearchParams(location.hash.slice(1));
    const names = [...bySubject.keys()];
    const chosen = bySubject.has(asked.get("subject")) ? asked.get("subject") : names[0];
    fill(subject, [...names].sort(), chosen);
    fill(agent, Object.keys(bySubject.get(chosen)), asked.get("agent"));
    subject.addEventListener("change", showSubject);
    agent.addEventListener("change", showTrajectories);
    drawing.push(showSubject());
  }

  // One session, trial by trial
  const chosenSession = document.getElementById("session");
  const byTrial = new Map(objects(payload.data.by_trial).map((one) => [one.session, one]));
  let sessionView;
  const showSession = async () => {
    const one = byTrial.get(chosenSession.value);
    const sides = ["left", "right"];
    const values = one.trials.flatMap(([trial, , , ...both]) =>
      sides.map((side, number) => ({ trial, side, value: both[number] })));
    const numbers = values.map((row) => row.value).filter((value) => value !== null);
    const [lowest, highest] = [Math.min(0, ...numbers), Math.max(1, ...numbers)];
    const height = highest - lowest;
    const choices = one.trials.map(([trial, choice, reward]) => {
      const edge = choice === 1 ? highest + 0.06 * height : lowest - 0.06 * height;
      const length = (choice === 1 ? 1 : -1) * height * (reward ? 0.16 : 0.07);
      return { trial, side: sides[choice], reward: reward ? "yes" : "no", from: edge, to: edge + length };
    });
    (await sessionView)?.finalize();
    const place = document.querySelector("#by-trial .chart");
    sessionView = embed(place, payload.session, { session: values, choices });
    await sessionView;
    place.dataset.drawn = one.session;
    document.getElementById("session-agent").textContent = one.agent;
    const link = document.getElementById("session-figure");
    link.hidden = !one.figure?.startsWith("https://");
    if (!link.hidden) link.href = one.figure;
  };
  if (byTrial.size === 0) {
    document.querySelectorAll("#by-trial .pickers, #by-trial .chart").forEach((one) => one.remove());
    document.querySelector("#by-trial .empty").hidden = false;
  } else {
    fill(chosenSession, [...byTrial.keys()]);
    chosenSession.addEventListener("change", showSession);
    drawing.push(showSession());
  }

  // The age of the page
  const built = document.getElementById("built");
  if (built) {
    const hours = (Date.now() - new Date(built.dateTime)) / 3.6e6;
    const age = document.getElementById("age");
    age.textContent = hours < 1.5 ? " (within the hour)" : hours < 48 ? ` (${Math.round(hours)} hours ago)` : ` (${Math.round(hours / 24)} days ago)`;
    age.classList.toggle("old", hours > 36);
  }
  Promise.all(drawing).then(() => document.documentElement.setAttribute("data-ready", ""));
})();
