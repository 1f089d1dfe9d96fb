import assert from "node:assert/strict";
import { test } from "node:test";
import { moveOnSlide, quarter, screenSize, toScreen, toSlide } from "../turn.js";

const VIEW = { x: 1000, y: 2000, scale: 2, width: 300, height: 200 };
/** @type {[number, number]} */
const CORNER = [1000, 2000];

test("a quarter turn clockwise takes the upper left corner to the upper right", () => {
  assert.deepEqual(toScreen({ ...VIEW, turn: 0 }, CORNER), [0, 0]);
  assert.deepEqual(toScreen({ ...VIEW, turn: 90 }, CORNER), [200, 0]); // the screen is 200 × 300
  assert.deepEqual(toScreen({ ...VIEW, turn: 180 }, CORNER), [300, 200]);
  assert.deepEqual(toScreen({ ...VIEW, turn: 270 }, CORNER), [0, 300]);
  assert.deepEqual(screenSize({ ...VIEW, turn: 90 }), [200, 300]);
  assert.deepEqual(screenSize(VIEW), [300, 200]);
});

test("screen and slide are each other's inverse", () => {
  for (const turn of [undefined, 0, 90, 180, 270]) {
    const view = { ...VIEW, turn };
    for (const css of /** @type {[number, number][]} */ ([[0, 0], [17, 3], [199, 150]])) {
      assert.deepEqual(toScreen(view, toSlide(view, css)), css);
      const [x, y] = toSlide(view, css), [a, b] = toSlide(view, [css[0] + 5, css[1] - 7]);
      assert.deepEqual(moveOnSlide(turn, [5, -7]), [(a - x) / 2, (b - y) / 2]);
    }
  }
});

test("any angle is taken to the next quarter", () => {
  assert.deepEqual([0, 44, 46, 360, -90, 270, 725].map(quarter), [0, 0, 90, 0, 270, 270, 0]);
});
