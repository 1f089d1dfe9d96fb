// Colors as #rrggbb, and their contrast as WCAG 2.2 defines it.

/** @param {string} hex @returns {[number, number, number]} */
export function channels(hex) {
  const value = parseInt(hex.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

/**
 * Relative luminance, 0 … 1 (WCAG 2.2).
 * @param {string} hex
 */
export function luminance(hex) {
  const [r, g, b] = channels(hex).map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** @param {string} a @param {string} b */
export function contrast(a, b) {
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
}

/**
 * Return the color of a class's outline: its own, darkened until it stands out from white by 3 to 1.
 * @param {string} hex
 */
export function lineColor(hex) {
  const from = channels(hex);
  for (let share = 1; share > 0; share -= 0.04) {
    const dark = "#" + from.map((v) => Math.round(v * share).toString(16).padStart(2, "0")).join("");
    if (contrast(dark, "#ffffff") >= 3) return dark;
  }
  return "#000000";
}
