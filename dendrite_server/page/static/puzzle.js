// The Game of 24 itself: puzzles, and whether an answer is right, which nobody's word is taken for.

// Held out of the embedded model's training, and solvable.
export const PUZZLES = [
  "5 6 7 12", "1 4 6 13", "2 8 10 12", "6 7 8 10", "4 7 7 8", "1 6 11 12", "2 5 9 10", "3 3 6 13", "3 4 11 13", "7 8 10 10",
];

export function readNumbers(text) {
  const numbers = text.trim().split(/[\s,]+/).map(Number);
  return numbers.length === 4 && numbers.every((n) => Number.isInteger(n) && n >= 1 && n <= 99) ? numbers : null;
}

// What the last answer in a text is worth (null if there is none), and whether it makes 24 of exactly these numbers.
export function check(text, numbers) {
  const found = [...text.matchAll(/Answer:\s*([\d\s+\-*/()]+?)\s*=\s*24\b/g)].at(-1);
  const value = found ? evaluate(found[1]) : null;
  if (value === null) return { solved: false, value };
  const sorted = (list) => String(list.map(Number).sort((a, b) => a - b));
  const isFair = sorted(found[1].match(/\d+/g) ?? []) === sorted(numbers);
  return { solved: isFair && Math.abs(value - 24) < 1e-9, value };
}

// The value of an expression of + - * / and brackets, null if it is none.
export function evaluate(text) {
  const parts = text.match(/\d+|[-+*/()]/g) ?? [];
  let at = 0;
  const sum = () => {
    let value = product();
    while (parts[at] === "+" || parts[at] === "-") value = parts[at++] === "+" ? value + product() : value - product();
    return value;
  };
  const product = () => {
    let value = atom();
    while (parts[at] === "*" || parts[at] === "/") value = parts[at++] === "*" ? value * atom() : value / atom();
    return value;
  };
  const atom = () => {
    const part = parts[at++];
    if (part === "(") {
      const value = sum();
      return parts[at++] === ")" ? value : NaN;
    }
    return /^\d+$/.test(part ?? "") ? Number(part) : NaN;
  };
  const value = sum();
  return at === parts.length && Number.isFinite(value) ? value : null;
}
