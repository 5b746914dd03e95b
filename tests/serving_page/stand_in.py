"""A stand-in for the HTTP API: true to its contract, with made-up scores and no model.

A score follows from an image's bytes, so that the same image always gets the same answer. What
is rejected, and why, is the library's own judgement.
"""

import base64
import hashlib
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
from fastapi import FastAPI, File, Request, UploadFile
from starlette.middleware.base import RequestResponseEndpoint
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

import dermascan
from dermascan.imaging import ImageRefusedError, decode
from dermascan.quality import measure
from dermascan.taxonomy import CLASS_NAMES, LESION_CLASSES, Taxonomy

PAGE = Path(dermascan.__file__).parent / "serving" / "page"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
VERSION = 20260102030405
THRESHOLD = 0.276
BLURRED_BELOW = 20.0
SEEN = (192, 256)  # height and width of the prepared image


def create_app() -> FastAPI:
    """Return the stand-in with the page in front of it."""
    app = FastAPI(openapi_url="/openapi.json", docs_url=None, redoc_url=None)
    app.middleware("http")(_protected)
    app.get("/")(lambda: FileResponse(PAGE / "index.html"))
    app.mount("/static", StaticFiles(directory=PAGE))
    app.get("/v1/models/current")(current_model)
    app.post("/v1/predict")(predict)
    return app


async def _protected(request: Request, call_next: RequestResponseEndpoint) -> Response:
    response = await call_next(request)
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-cache"
    return response


def current_model() -> dict[str, Any]:
    classes = [
        {"code": code, "name": CLASS_NAMES[code], "malignant": Taxonomy().is_malignant(code)}
        for code in LESION_CLASSES
    ]
    return {
        "name": "dermascan",
        "version": VERSION,
        "since": "2026-01-02T09:15:00+00:00",
        "published_by": "train_model",
        "classes": classes,
        "threshold": THRESHOLD,
        "threshold_choice": "stand-in",
        "operating_specificity": 0.9,
        "image_size": {"height": SEEN[0], "width": SEEN[1]},
        "runtime": "a stand-in 1.0",
        "metrics": {"images": 1502.0, "roc_auc": 0.953, "sensitivity": 0.871, "ece": 0.021},
        "disclaimer": dermascan.DISCLAIMER,
    }


async def predict(
    images: Annotated[list[UploadFile], File()], explain: bool = False
) -> dict[str, Any]:
    results = [_result(each.filename or "", await each.read(), explain) for each in images]
    return {
        "model": {"name": "dermascan", "version": VERSION, "classes": LESION_CLASSES},
        "threshold": THRESHOLD,
        "disclaimer": dermascan.DISCLAIMER,
        "results": results,
    }


def _result(filename: str, data: bytes, explain: bool) -> dict[str, Any]:
    found = {"filename": filename, "sha256": hashlib.sha256(data).hexdigest()}
    unknown = ("reason", "p_malignant", "label", "probabilities", "quality", "explanation")
    try:
        image = decode(data)
    except ImageRefusedError as error:
        reason = f"{error.reason}: {error.detail}"
        return found | dict.fromkeys(unknown) | {"status": "rejected", "reason": reason}
    probabilities = scores(data)
    risk = sum(probabilities[code] for code in Taxonomy().malignant)
    return found | {
        "status": "ok",
        "reason": None,
        "p_malignant": risk,
        "label": "malignant" if risk >= THRESHOLD else "benign",
        "probabilities": probabilities,
        "quality": _quality(data, image),
        "explanation": _explanation(probabilities) if explain else None,
    }


def scores(data: bytes) -> dict[str, float]:
    """Make up probabilities that add up to 1, most of it on one class."""
    random = np.random.default_rng(list(hashlib.sha256(data).digest()))
    shares = random.dirichlet(np.full(len(LESION_CLASSES), 0.35))
    return dict(zip(LESION_CLASSES, map(float, shares), strict=True))


def _quality(data: bytes, image: np.ndarray) -> dict[str, Any]:
    facts = measure(data, image)
    warnings = []
    if facts.sharpness < BLURRED_BELOW:
        warnings.append({"code": "blurred", "message": "out of focus or moved"})
    if facts.brightness > 235:
        warnings.append({"code": "unheard_of", "message": "A warning <b>newer</b> than the page."})
    names = ("width", "height", "format", "sharpness", "brightness", "clipped_fraction")
    return {name: getattr(facts, name) for name in names} | {"warnings": warnings}


def _explanation(probabilities: dict[str, float]) -> dict[str, str]:
    """Draw a warm spot left of the middle: a map that is turned or mirrored is seen to be."""
    height, width = SEEN
    y, x = np.mgrid[:height, :width]
    heat = np.exp(-(((x - 0.3 * width) / 40) ** 2 + ((y - 0.5 * height) / 40) ** 2))
    levels = np.rint(255 * heat).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)
    _, png = cv2.imencode(".png", np.dstack([colours, levels]))
    likeliest = max(probabilities, key=lambda code: probabilities[code])
    return {"png": base64.b64encode(png.tobytes()).decode(), "image_class": likeliest}
