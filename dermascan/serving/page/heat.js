/** Lays a heat map of what the model saw over the whole photograph. */
import { el } from "./dom.js";

const LONG_SIDE = 640;

/**
 * Where the prepared image lies in the photograph. The model sees the photograph turned by a
 * quarter clockwise if that lays the long sides along each other, scaled to cover the model's
 * input, its centre cropped (`dermascan.imaging.prepare`).
 * @param {{width: number, height: number}} photo upright.
 * @param {{width: number, height: number}} seen the prepared image, in any scale.
 * @returns {{turned: boolean, width: number, height: number}} the part that was seen, centred,
 *   in the photograph's pixels, before it is turned back.
 */
export function seenPart(photo, seen) {
  const turned = (photo.width - photo.height) * (seen.width - seen.height) < 0;
  const [width, height] = turned ? [photo.height, photo.width] : [photo.width, photo.height];
  const scale = Math.max(seen.width / width, seen.height / height);
  return { turned, width: seen.width / scale, height: seen.height / scale };
}

/**
 * Draw the map into a canvas that covers the photograph; what the model did not see is hatched.
 * @param {{width: number, height: number}} photo upright, in pixels.
 * @param {string} png base64, from the server.
 */
export async function heatCanvas(photo, png) {
  const map = await createImageBitmap(new Blob([bytesOf(png)], { type: "image/png" }));
  const scale = LONG_SIDE / Math.max(photo.width, photo.height);
  const size = { width: Math.round(photo.width * scale), height: Math.round(photo.height * scale) };
  const canvas = el("canvas", { class: "heat", "aria-hidden": "true", ...size });
  const part = seenPart(size, map);
  const pen = canvas.getContext("2d");
  pen.fillStyle = hatching(pen);
  pen.fillRect(0, 0, size.width, size.height);
  pen.translate(size.width / 2, size.height / 2);
  if (part.turned) pen.rotate(-Math.PI / 2);
  const place = [-part.width / 2, -part.height / 2, part.width, part.height];
  pen.clearRect(...place);
  pen.drawImage(map, ...place);
  map.close();
  return canvas;
}

/** Whether a noticeable part of the photograph was cropped away before the model saw it. */
export function isCropped(photo, png) {
  const header = new DataView(bytesOf(png.slice(0, 32)).buffer); // a PNG's size is in bytes 16 to 23
  const part = seenPart(photo, { width: header.getUint32(16), height: header.getUint32(20) });
  return part.width * part.height < 0.98 * photo.width * photo.height;
}

const bytesOf = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

function hatching(pen) {
  const tile = new OffscreenCanvas(8, 8);
  const line = tile.getContext("2d");
  line.strokeStyle = "#ffffffb0";
  line.lineWidth = 1.5;
  line.beginPath();
  line.moveTo(-2, 10);
  line.lineTo(10, -2);
  line.stroke();
  return pen.createPattern(tile, "repeat");
}
