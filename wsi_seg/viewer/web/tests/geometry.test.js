import assert from "node:assert/strict";
import { test } from "node:test";
import { area, covers, enlarged, fetchArea, formatArea, formatLength, formatMm2, inside, powerOfTwo, roundLength, viewBox } from "../geometry.js";

const random = (/** @type {number} */ seed) => () => (seed = (seed * 48271) % 2147483647) / 2147483647;

test("the scale that is fetched is a power of two at most as coarse as the view", () => {
  for (const [scale, expected] of [[1, 1], [1.99, 1], [2, 2], [7.9, 4], [0.5, 0.5], [0.3, 0.25], [1e-6, 1 / 16]]) {
    assert.equal(powerOfTwo(scale), expected);
  }
});

test("what is fetched covers the view, lies on the slide and serves small moves too", () => {
  const next = random(7);
  for (let n = 0; n < 500; n++) {
    const size = /** @type {[number, number]} */ ([1 + Math.floor(next() * 90000), 1 + Math.floor(next() * 90000)]);
    const scale = 2 ** (next() * 12 - 4);
    const view = { x: (next() * 1.4 - 0.2) * size[0], y: (next() * 1.4 - 0.2) * size[1], scale, width: 300 + next() * 2000, height: 300 + next() * 1200 };
    const { box, scale: fetched } = fetchArea(view, size);
    assert.ok(fetched <= scale && fetched > scale / 2 || scale < 1 / 16);
    assert.ok(covers(box, viewBox(view), size));
    assert.ok(box[0] >= 0 && box[1] >= 0 && box[2] <= size[0] && box[3] <= size[1]);
    assert.ok(Math.max(box[2] - box[0], box[3] - box[1]) / fetched <= 16384); // what the server allows
  }
  const size = /** @type {[number, number]} */ ([90000, 90000]);
  const view = { x: 30010, y: 40010, scale: 4, width: 1000, height: 800 };
  for (const [dx, dy] of [[400, 0], [-400, 300], [0, -500]]) {
    assert.ok(covers(fetchArea(view, size).box, viewBox({ ...view, x: view.x + dx, y: view.y + dy }), size));
  }
});

test("an enlarged view keeps its scale and its center", () => {
  const view = { x: 100, y: 50, scale: 2.5, width: 1001, height: 333 }, large = enlarged(view, 0.15);
  const center = (/** @type {typeof view} */ v) => [v.x + (v.width / 2) * v.scale, v.y + (v.height / 2) * v.scale];
  center(view).forEach((value, i) => assert.ok(Math.abs(value - center(large)[i]) < 1e-9));
  assert.equal(large.scale, view.scale);
  assert.ok(Number.isInteger(large.width - view.width));
});

test("holes are outside, and count off the area", () => {
  const outer = [0, 0, 10, 0, 10, 10, 0, 10], hole = [4, 4, 4, 6, 6, 6, 6, 4];
  assert.equal(area([outer]), 100);
  assert.equal(area([outer, hole]), 96);
  assert.ok(inside([outer, hole], 1, 1) && !inside([outer, hole], 5, 5) && !inside([outer], 11, 5));
});

test("a point is inside a polygon as the winding number says", () => {
  const next = random(11);
  for (let n = 0; n < 300; n++) {
    const corners = Array.from({ length: 3 + Math.floor(next() * 9) }, (_, i) => i).map((i, _, all) => {
      const angle = (2 * Math.PI * i) / all.length, r = 1 + next() * 4;
      return [r * Math.cos(angle), r * Math.sin(angle)];
    });
    const [x, y] = [next() * 8 - 4, next() * 8 - 4];
    let turn = 0;
    corners.forEach(([ax, ay], i) => {
      const [bx, by] = corners[(i + 1) % corners.length];
      turn += Math.atan2((ax - x) * (by - y) - (ay - y) * (bx - x), (ax - x) * (bx - x) + (ay - y) * (by - y));
    });
    assert.equal(inside([corners.flat()], x, y), Math.abs(turn) > Math.PI);
  }
});

test("scale bars are round", () => {
  for (const [most, expected] of [[1, 1], [1.9, 1], [2, 2], [49, 20], [50, 50], [999, 500], [1000, 1000], [0.07, 0.05]]) {
    assert.ok(Math.abs(roundLength(most) - expected) < 1e-9 * expected, `${most}`);
  }
});

test("lengths and areas read as a person writes them", () => {
  assert.deepEqual([formatLength(50), formatLength(2000), formatLength(0.5)], ["50 µm", "2 mm", "500 nm"]);
  assert.deepEqual([formatArea(18734.2), formatArea(123.4), formatArea(250000)], ["18700 µm²", "123 µm²", "0.25 mm²"]);
  assert.deepEqual([formatMm2(0), formatMm2(0.0034), formatMm2(1.234), formatMm2(45.67), formatMm2(123.4)], ["0.00 mm²", "0.003 mm²", "1.23 mm²", "45.7 mm²", "123 mm²"]);
});
