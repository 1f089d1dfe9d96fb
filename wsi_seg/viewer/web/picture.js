// The view as a PNG: slide, layers, outlines, scale bar, legend and notice.

import { title } from "./api.js";
import { lineColor } from "./color.js";
import { formatMm2 } from "./geometry.js";
import { colorOf, shownGroups } from "./palette.js";
import { drawScale, shownScales } from "./scale.js";

/** @typedef {import("./screen.js").SlideScreen} Screen */
/** @typedef {import("./pane.js").Pane} Pane */

const FONT = "system-ui, sans-serif";
const GAP = 8;

/** @param {Screen} screen */
export async function savePicture(screen) {
  const blob = await draw(screen).convertToBlob({ type: "image/png" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${screen.slide.name}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** @param {Screen} screen @returns {OffscreenCanvas} */
function draw(screen) {
  const ratio = window.devicePixelRatio || 1, foot = 46 * ratio;
  const parts = screen.panes.map((pane) => pane.viewer.drawer.canvas).filter((canvas) => canvas instanceof HTMLCanvasElement);
  const width = parts.reduce((sum, part) => sum + part.width, 0) + GAP * ratio * (parts.length - 1);
  const height = Math.max(...parts.map((part) => part.height));
  const canvas = new OffscreenCanvas(width, height + foot);
  const context = canvas.getContext("2d");
  if (!context) throw new Error("this browser gives no canvas");
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, width, height + foot);
  let left = 0;
  screen.panes.forEach((pane, i) => {
    context.drawImage(parts[i], left, 0);
    drawOutlines(context, pane.outlines.canvas, [left, 0, parts[i].width, parts[i].height], ratio);
    drawBar(context, pane, left + 16 * ratio, height - 16 * ratio, ratio);
    left += parts[i].width + GAP * ratio;
  });
  drawLegend(context, screen, height, ratio);
  return canvas;
}

/**
 * Draw the outlines where the page has them.
 * @param {OffscreenCanvasRenderingContext2D} context
 * @param {HTMLCanvasElement} canvas which CSS moves over the slide
 * @param {[number, number, number, number]} pane left, top, width and height, device pixels
 * @param {number} ratio
 */
function drawOutlines(context, canvas, [left, top, width, height], ratio) {
  if (canvas.hidden) return;
  const { a, b, c, d, e, f } = new DOMMatrix(canvas.style.transform);
  context.save();
  context.beginPath();
  context.rect(left, top, width, height);
  context.clip();
  context.translate(left, top);
  context.transform(a, b, c, d, e * ratio, f * ratio);
  context.drawImage(canvas, 0, 0);
  context.restore();
}

/**
 * @param {OffscreenCanvasRenderingContext2D} context
 * @param {Pane} pane
 * @param {number} x left end of the bar
 * @param {number} y its lower edge
 * @param {number} ratio
 */
function drawBar(context, pane, x, y, ratio) {
  if (pane.bar.hidden) return;
  const length = parseFloat(pane.bar.style.width) * ratio;
  context.fillStyle = "rgba(255, 255, 255, 0.85)";
  context.fillRect(x - 6 * ratio, y - 24 * ratio, length + 12 * ratio, 30 * ratio);
  context.fillStyle = "#1d1b20";
  context.fillRect(x, y - 3 * ratio, length, 3 * ratio);
  context.font = `${13 * ratio}px ${FONT}`;
  context.textAlign = "center";
  context.fillText(pane.bar.textContent ?? "", x + length / 2, y - 8 * ratio);
  context.textAlign = "left";
}

/**
 * @param {OffscreenCanvasRenderingContext2D} context
 * @param {Screen} screen
 * @param {number} top
 * @param {number} ratio
 */
function drawLegend(context, { slide, other, state }, top, ratio) {
  let x = 8 * ratio;
  context.font = `${13 * ratio}px ${FONT}`;
  for (const group of shownGroups(slide, state).filter((one) => one.mm2)) {
    const beside = other?.groups.find((one) => one.name === group.name);
    const areas = [group, ...(beside ? [beside] : [])].map((one) => formatMm2(one.mm2 ?? 0)).join(" | ");
    const color = colorOf(group, state.safe), text = `${title(group.name)} ${areas}`;
    context.fillStyle = color;
    context.strokeStyle = lineColor(color);
    context.lineWidth = 1.5 * ratio;
    context.fillRect(x, top + 8 * ratio, 11 * ratio, 11 * ratio);
    context.strokeRect(x, top + 8 * ratio, 11 * ratio, 11 * ratio);
    context.fillStyle = "#1d1b20";
    context.fillText(text, x + 16 * ratio, top + 18 * ratio);
    x += context.measureText(text).width + 30 * ratio;
  }
  for (const scale of shownScales(slide, state)) x += drawScale(context, slide, scale, x, top + 8 * ratio, ratio) + 20 * ratio;
  context.font = `${11 * ratio}px ${FONT}`;
  context.fillStyle = "#55505c";
  context.fillText(`${slide.name} · ${slide.notice}`, 8 * ratio, top + 37 * ratio);
}
