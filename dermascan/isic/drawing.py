"""Draw dermoscopy-like pictures of skin lesions: optics and shapes, no data of any person.

A picture is made as light makes it. Skin and lesion are maps of pigment density; light
that passes through them is weakened by exp(-density x absorption) in each colour
(Beer-Lambert), so a brown network over a red lesion on dark skin gets its colour from
the same few numbers everywhere. A lesion is drawn once in its own frame and then placed
under the lens, so that two pictures of one lesion show the same structures.

Maps are float32 (height, width); a stack of pigments is float32 (5, height, width), one
map for each field of `Pigments`; pictures are RGB, (height, width, 3), 0 to 1 until the
camera makes bytes of them. Lengths on skin are in millimetres, those of an outline in
lesion radii.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Map: TypeAlias = NDArray[np.float32]
Points: TypeAlias = NDArray[np.float64]

WIDTH, HEIGHT = 600, 450
FRAME = 416  # pixels along a side of the lesion's own frame
RADIUS = 120  # pixels of one lesion radius in that frame


class Pigments(NamedTuple):
    """Densities of what colours a piece of skin.

    Attributes:
        melanin: pigment near the surface, brown to black.
        deep: melanin in the dermis, blue-grey by scattering.
        blood: pink to purple.
        keratin: horn and crust, yellow.
        white: share of light that scar or scale throws back, 0 to 1.
    """

    melanin: float = 0.0
    deep: float = 0.0
    blood: float = 0.0
    keratin: float = 0.0
    white: float = 0.0


# Rows: red, green, blue light. Columns: melanin, deep, blood, keratin. Chosen by eye so that
# unit density looks like the pigment at work.
ABSORPTION = (
    (0.52, 1.00, 0.10, 0.04),
    (0.95, 0.86, 0.95, 0.26),
    (1.32, 0.62, 0.76, 0.85),
)
SCATTERED_WHITE = (0.93, 0.84, 0.83)
BARE_SKIN = (0.97, 0.94, 0.91)

# Melanin density of skin, Fitzpatrick type I to VI.
SKIN_MELANIN = {"I": 0.02, "II": 0.07, "III": 0.17, "IV": 0.38, "V": 0.72, "VI": 1.10}


@dataclass(frozen=True)
class Skin:
    """A patient's skin.

    Attributes:
        melanin: density away from the lesion, see `SKIN_MELANIN`.
        blood: density away from the lesion, about 0.1 to 0.4.
        sun_damage: 0 (even) to 1 (freckles, fine vessels, blotches).
        hairiness: 0 to 1.
        hair_colour: RGB, 0 to 1.
    """

    melanin: float
    blood: float
    sun_damage: float
    hairiness: float
    hair_colour: tuple[float, float, float]


@dataclass(frozen=True)
class LesionAppearance:
    """What one lesion looks like; every strength is 0 when the lesion has none of it.

    Attributes:
        radius: mean radius, millimetres.
        elongation: longer over shorter axis.
        asymmetry: how far the outline departs from an ellipse, in radii.
        irregularity: roughness of the border, in radii.
        softness: width over which the border fades, in radii.
        melanin: mean density of the body, and so on for deep, blood and keratin.
        variegation: contrast between differently coloured parts.
        centre: how much darker (or, below 0, paler) the middle is than the rim.
        disorder: 0 for an even network and spread of globules, 1 for chaos.
        network: strength of the pigment network; the other fields are strengths of
            structures as dermoscopy names them.
    """

    radius: float = 2.0
    elongation: float = 1.2
    asymmetry: float = 0.0
    irregularity: float = 0.0
    softness: float = 0.2
    melanin: float = 0.0
    deep: float = 0.0
    blood: float = 0.0
    keratin: float = 0.0
    variegation: float = 0.0
    centre: float = 0.0
    disorder: float = 0.0
    network: float = 0.0
    globules: float = 0.0
    streaks: float = 0.0
    veil: float = 0.0
    regression: float = 0.0
    arborising_vessels: float = 0.0
    dotted_vessels: float = 0.0
    lacunae: float = 0.0
    nests: float = 0.0
    ulcer: float = 0.0
    milia: float = 0.0
    comedones: float = 0.0
    ridges: float = 0.0
    follicles: float = 0.0
    scale: float = 0.0
    scar: float = 0.0


class Trait(NamedTuple):
    """A value between `low` and `high` in a share `chance` of lesions, else the default."""

    low: float
    high: float
    chance: float = 1.0


# What the classes look like, in the terms of the third consensus on dermoscopy (Kittler et al.,
# J Am Acad Dermatol 74:1093-1106, 2016). The ranges overlap on purpose.
TRAITS: Mapping[str, Mapping[str, Trait]] = {
    "akiec": {
        "radius": Trait(2.2, 4.4),
        "elongation": Trait(1.0, 1.5),
        "asymmetry": Trait(0.10, 0.30),
        "irregularity": Trait(0.08, 0.22),
        "softness": Trait(0.20, 0.50),
        "melanin": Trait(0.05, 0.50),
        "blood": Trait(0.22, 0.60),
        "keratin": Trait(0.05, 0.35),
        "variegation": Trait(0.3, 0.7),
        "disorder": Trait(0.3, 1.0),
        "network": Trait(0.1, 0.4, 0.25),
        "globules": Trait(0.2, 0.5, 0.20),
        "dotted_vessels": Trait(0.4, 1.0, 0.60),
        "follicles": Trait(0.5, 1.0, 0.85),
        "scale": Trait(0.4, 0.9, 0.80),
        "ulcer": Trait(0.3, 0.7, 0.15),
    },
    "bcc": {
        "radius": Trait(1.5, 3.8),
        "elongation": Trait(1.0, 1.5),
        "asymmetry": Trait(0.05, 0.28),
        "irregularity": Trait(0.03, 0.14),
        "softness": Trait(0.12, 0.35),
        "melanin": Trait(0.00, 0.35),
        "deep": Trait(0.00, 0.30, 0.50),
        "blood": Trait(0.12, 0.42),
        "keratin": Trait(0.0, 0.15),
        "variegation": Trait(0.2, 0.6),
        "disorder": Trait(0.3, 1.0),
        "globules": Trait(0.2, 0.6, 0.15),
        "arborising_vessels": Trait(0.6, 1.0, 0.90),
        "nests": Trait(0.5, 1.0, 0.80),
        "ulcer": Trait(0.4, 1.0, 0.40),
        "scale": Trait(0.1, 0.4, 0.20),
        "scar": Trait(0.1, 0.5, 0.30),
        "milia": Trait(0.2, 0.5, 0.10),
    },
    "bkl": {
        "radius": Trait(2.0, 4.6),
        "elongation": Trait(1.0, 1.7),
        "asymmetry": Trait(0.08, 0.30),
        "irregularity": Trait(0.05, 0.20),
        "softness": Trait(0.03, 0.22),
        "melanin": Trait(0.30, 1.05),
        "deep": Trait(0.05, 0.35, 0.30),
        "blood": Trait(0.00, 0.18),
        "keratin": Trait(0.10, 0.50),
        "variegation": Trait(0.2, 0.6),
        "centre": Trait(-0.2, 0.3),
        "disorder": Trait(0.3, 0.9),
        "network": Trait(0.1, 0.5, 0.20),
        "globules": Trait(0.2, 0.6, 0.20),
        "milia": Trait(0.5, 1.0, 0.80),
        "comedones": Trait(0.4, 1.0, 0.75),
        "ridges": Trait(0.3, 1.0, 0.60),
        "scale": Trait(0.1, 0.5, 0.20),
        "regression": Trait(0.2, 0.6, 0.15),
    },
    "df": {
        "radius": Trait(1.7, 3.0),
        "elongation": Trait(1.0, 1.4),
        "asymmetry": Trait(0.00, 0.14),
        "irregularity": Trait(0.02, 0.10),
        "softness": Trait(0.30, 0.60),
        "melanin": Trait(0.15, 0.50),
        "blood": Trait(0.10, 0.40),
        "keratin": Trait(0.0, 0.15),
        "variegation": Trait(0.05, 0.3),
        "centre": Trait(-0.8, -0.1),
        "disorder": Trait(0.0, 0.4),
        "network": Trait(0.2, 0.6, 0.75),
        "globules": Trait(0.1, 0.4, 0.15),
        "dotted_vessels": Trait(0.2, 0.6, 0.25),
        "scar": Trait(0.6, 1.0, 0.93),
        "scale": Trait(0.1, 0.3, 0.10),
    },
    "mel": {
        "radius": Trait(2.2, 4.8),
        "elongation": Trait(1.0, 1.6),
        "asymmetry": Trait(0.15, 0.40),
        "irregularity": Trait(0.06, 0.22),
        "softness": Trait(0.06, 0.24),
        "melanin": Trait(0.55, 1.45),
        "deep": Trait(0.05, 0.40, 0.50),
        "blood": Trait(0.02, 0.30),
        "variegation": Trait(0.5, 1.1),
        "centre": Trait(-0.2, 0.4),
        "disorder": Trait(0.5, 1.0),
        "network": Trait(0.3, 1.0, 0.75),
        "globules": Trait(0.3, 1.0, 0.50),
        "streaks": Trait(0.4, 1.0, 0.50),
        "veil": Trait(0.5, 1.0, 0.65),
        "regression": Trait(0.5, 1.0, 0.50),
        "dotted_vessels": Trait(0.2, 0.7, 0.25),
        "ulcer": Trait(0.2, 0.6, 0.08),
        "milia": Trait(0.2, 0.5, 0.08),
    },
    "nv": {
        "radius": Trait(1.4, 3.8),
        "elongation": Trait(1.0, 1.6),
        "asymmetry": Trait(0.00, 0.16),
        "irregularity": Trait(0.02, 0.12),
        "softness": Trait(0.10, 0.40),
        "melanin": Trait(0.40, 1.30),
        "deep": Trait(0.05, 0.25, 0.20),
        "blood": Trait(0.02, 0.30),
        "variegation": Trait(0.1, 0.45),
        "centre": Trait(-0.1, 0.6),
        "disorder": Trait(0.0, 0.6),
        "network": Trait(0.3, 0.9, 0.80),
        "globules": Trait(0.3, 0.9, 0.40),
        "streaks": Trait(0.2, 0.5, 0.08),
        "veil": Trait(0.1, 0.4, 0.06),
        "regression": Trait(0.1, 0.4, 0.06),
        "milia": Trait(0.2, 0.5, 0.06),
        "dotted_vessels": Trait(0.2, 0.5, 0.08),
    },
    "vasc": {
        "radius": Trait(1.0, 2.8),
        "elongation": Trait(1.0, 1.5),
        "asymmetry": Trait(0.03, 0.22),
        "irregularity": Trait(0.02, 0.14),
        "softness": Trait(0.04, 0.20),
        "melanin": Trait(0.00, 0.15),
        "deep": Trait(0.05, 0.60, 0.45),
        "blood": Trait(0.35, 0.95),
        "variegation": Trait(0.1, 0.5),
        "centre": Trait(-0.1, 0.3),
        "disorder": Trait(0.0, 0.8),
        "lacunae": Trait(0.5, 1.0, 0.95),
        "ulcer": Trait(0.2, 0.6, 0.12),
        "scale": Trait(0.1, 0.4, 0.15),
        "veil": Trait(0.2, 0.5, 0.15),
    },
}

# What a class is mistaken for: an atypical lesion borrows traits from there.
LOOKALIKES: Mapping[str, tuple[str, ...]] = {
    "akiec": ("bcc", "bkl"),
    "bcc": ("akiec", "nv", "mel"),
    "bkl": ("mel", "nv", "akiec"),
    "df": ("nv", "bcc"),
    "mel": ("nv", "bkl"),
    "nv": ("mel", "bkl", "df"),
    "vasc": ("bcc", "nv"),
}
ATYPICAL_SHARE = 0.15
BORROWED_TRAITS = 0.5


def sample_appearance(lesion_class: str, rng: np.random.Generator) -> LesionAppearance:
    """Draw the looks of a lesion of one class from `TRAITS`.

    Args:
        lesion_class: one of `dermascan.taxonomy.LESION_CLASSES`.
        rng: decides everything.
    """
    lookalike = str(rng.choice(LOOKALIKES[lesion_class]))
    borrowed = BORROWED_TRAITS if rng.random() < ATYPICAL_SHARE else 0.0
    values: dict[str, float] = {}
    for field in fields(LesionAppearance):
        source = lookalike if rng.random() < borrowed else lesion_class
        share, level = rng.random(2)
        trait = TRAITS[source].get(field.name)
        if trait is not None and share < trait.chance:
            values[field.name] = trait.low + (trait.high - trait.low) * level
    return LesionAppearance(**values)


def smoothstep(values: Map, low: float, high: float) -> Map:
    """Rise from 0 at `low` to 1 at `high` without corners."""
    t: Map = (values - float(low)) * (1 / float(high - low))
    np.clip(t, 0, 1, out=t)
    return t * t * (3 - 2 * t)


def cloud_noise(
    rng: np.random.Generator, shape: tuple[int, int], cells: float, octaves: int = 3
) -> Map:
    """Draw smooth noise of mean 0 and deviation about 1.

    Args:
        rng: decides the noise.
        shape: height and width, pixels.
        cells: blobs along the longer side in the coarsest octave.
        octaves: each next one has half the size and half the strength.
    """
    finest = cells * 2 ** (octaves - 1) / max(shape)
    sizes = [min(side, round(side * finest * 4) + 1) for side in shape]  # 4 pixels a blob
    total = np.zeros(sizes, np.float32)
    for octave in range(octaves):
        blobs = [int(side / max(shape) * cells * 2**octave) + 2 for side in shape]
        total += 0.5**octave * _enlarge(rng.standard_normal(blobs, np.float32), sizes)
    return _enlarge(total, shape)


def _enlarge(values: Map, shape: Sequence[int]) -> Map:
    """Resize a map smoothly to height and width."""
    return np.asarray(cv2.resize(values, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC))


class Cells(NamedTuple):
    """A plane divided into cells around jittered points.

    Attributes:
        labels: int32 (height, width), which cell a pixel is in.
        depth: distance of a pixel from its cell's point, in spacings.
        edges: 1 on the borders between cells, falling to 0 inside.
    """

    labels: NDArray[np.int32]
    depth: Map
    edges: Map


def draw_cells(
    rng: np.random.Generator,
    shape: tuple[int, int],
    spacing: float,
    jitter: float = 0.3,
    line: float = 1.0,
) -> Cells:
    """Divide a plane into cells, as a pigment network or skin furrows do.

    Args:
        rng: decides the points.
        shape: height and width, pixels.
        spacing: pixels between neighbouring points.
        jitter: how far points leave their grid, in spacings.
        line: thickness of the edges, pixels (standard deviation).
    """
    rows, columns = int(shape[0] / spacing) + 2, int(shape[1] / spacing) + 2
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float64)
    x += 0.5 * (np.arange(rows) % 2)[:, None]  # bricks: a hexagonal grid
    points = np.stack([x, y], -1) + rng.uniform(-jitter, jitter, (rows, columns, 2))
    for coordinate in range(2):  # denser here, wider there
        points[..., coordinate] += 2 * jitter * cloud_noise(rng, (rows, columns), 4, 1)
    places = (points * spacing).astype(int).reshape(-1, 2)
    places = places[(places >= 0).all(1) & (places[:, 0] < shape[1]) & (places[:, 1] < shape[0])]
    seeds = np.ones(shape, np.uint8)
    seeds[places[:, 1], places[:, 0]] = 0
    depth, labels = cv2.distanceTransformWithLabels(
        seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    border = np.zeros(shape, np.float32)
    border[:, 1:] = labels[:, 1:] != labels[:, :-1]
    border[1:] = np.maximum(border[1:], labels[1:] != labels[:-1])
    edges = np.minimum(cv2.GaussianBlur(border, (0, 0), line) * (2.2 * line), 1)
    return Cells(labels, depth / spacing, edges)


@dataclass(frozen=True)
class Outline:
    """Where a lesion is, in its own frame of `FRAME` x `FRAME` pixels.

    Attributes:
        looks: what the lesion looks like.
        inside: depth below the border in radii, about 1 in the middle, below 0 outside.
        mask: 0 outside to 1 inside.
        millimetre: pixels.
    """

    looks: LesionAppearance
    inside: Map
    mask: Map
    millimetre: float


def draw_outline(looks: LesionAppearance, rng: np.random.Generator) -> Outline:
    """Draw the shape of a lesion: an ellipse bent by harmonics and roughened by noise."""
    axis = (np.arange(FRAME, dtype=np.float32) - FRAME / 2) / RADIUS
    stretch = math.sqrt(looks.elongation)
    x, y = np.meshgrid(axis / stretch, axis * stretch)
    distance, angle = cv2.cartToPolar(x, y, angleInDegrees=True)
    turns = np.linspace(0, 2 * np.pi, 361)
    waves = np.arange(2, 6)[:, None]
    phase = rng.uniform(0, 2 * np.pi, (4, 1))
    size = rng.normal(0, 1, (4, 1)) / waves
    edge = 1 + looks.asymmetry * (size * np.cos(waves * turns + phase)).sum(0)
    reach = np.take(edge.astype(np.float32), angle.astype(np.int32), mode="clip")
    rough = 0.28 * looks.asymmetry * cloud_noise(rng, (FRAME, FRAME), 5, 2)
    rough += 0.5 * looks.irregularity * cloud_noise(rng, (FRAME, FRAME), 14, 3)
    inside = reach - distance + rough
    fades = 0.02 + looks.softness * np.exp(0.5 * cloud_noise(rng, (FRAME, FRAME), 3, 1))
    mask = smoothstep(inside / fades, -0.6, 1.1)
    mask *= smoothstep(distance, 1.68, 1.45)  # nothing touches the frame's edge
    return Outline(looks, inside, mask, RADIUS / looks.radius)


def draw_body(outline: Outline, rng: np.random.Generator) -> Map:
    """Draw how much pigment the body has in each place, about 1 on average."""
    looks = outline.looks
    zones = np.tanh(1.2 * cloud_noise(rng, (FRAME, FRAME), 3.5, 3))
    mottling = cloud_noise(rng, (FRAME, FRAME), 24, 3)
    middle = np.clip(outline.inside, 0, 1) - 0.45
    contrast = 0.75 * looks.variegation * zones + 0.14 * mottling + looks.centre * middle
    thin_rim = 0.55 + 0.45 * smoothstep(outline.inside, 0, 0.2 + looks.softness)
    body: Map = outline.mask * thin_rim * cv2.exp(contrast)
    return body


def scatter_dots(
    rng: np.random.Generator, where: Map, count: int, sizes: tuple[float, float], blur: float = 0.8
) -> Map:
    """Scatter round spots of uneven strength.

    Args:
        rng: decides the places.
        where: chance of a dot at each place, 0 to 1.
        count: tries.
        sizes: smallest and largest radius, pixels.
        blur: softness, pixels.
    """
    height, width = where.shape
    spots = np.zeros(where.shape, np.uint8)
    places = rng.uniform(0, (width, height), (count, 2))
    kept = where[places[:, 1].astype(int), places[:, 0].astype(int)] > rng.random(count)
    radii = rng.uniform(*sizes, count)
    strengths = rng.integers(130, 256, count)
    for (x, y), radius, strength in zip(places[kept], radii[kept], strengths[kept], strict=True):
        centre = (round(x * 16), round(y * 16))
        cv2.circle(spots, centre, round(radius * 16), int(strength), -1, cv2.LINE_AA, 4)
    return _blurred(spots, blur)


def _blurred(drawing: NDArray[np.uint8], blur: float) -> Map:
    """Turn a drawing of 0 to 255 into a soft map of 0 to 1."""
    soft: Map = cv2.GaussianBlur(drawing.astype(np.float32), (0, 0), blur)
    return soft * (1 / 255)


def _polyline(drawing: NDArray[np.uint8], points: Points, strength: int, thickness: int) -> None:
    """Draw a smooth line through (n, 2) points of x and y."""
    fixed = np.round(points * 16).astype(np.int32).reshape(-1, 1, 2)
    cv2.polylines(drawing, [fixed], False, strength, thickness, cv2.LINE_AA, 4)


def _border_points(
    outline: Outline, rng: np.random.Generator, count: int, depth: float = 0.0
) -> Points:
    """Return `count` points (x, y) `depth` radii inside the border, in pixels of the frame."""
    contours, _ = cv2.findContours(
        (outline.inside > depth).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    border: Points = max(contours, key=len).reshape(-1, 2).astype(np.float64)
    return border[rng.integers(0, len(border), count)]


def draw_network(outline: Outline, rng: np.random.Generator) -> Map:
    """Draw a pigment network: a honeycomb, broken and thickened by disorder."""
    disorder = outline.looks.disorder
    spacing = rng.uniform(0.14, 0.20) * (1 + 0.5 * disorder) * outline.millimetre
    line = max(0.9, 0.14 * spacing)
    cells = draw_cells(rng, (FRAME, FRAME), spacing, 0.28 + 0.17 * disorder, line)
    patches = cloud_noise(rng, (FRAME, FRAME), 5, 3)
    present = smoothstep(patches, -1.7 + 1.2 * disorder, 0.2 + 1.2 * disorder)
    return (cells.edges - 0.28) * present * outline.mask


def draw_rim_network(outline: Outline, rng: np.random.Generator) -> Map:
    """Draw a network that leaves the centre of a lesion with a scar alone."""
    network = draw_network(outline, rng)
    if outline.looks.scar == 0:
        return network
    return network * smoothstep(outline.inside, 0.75, 0.35)


def draw_globules(outline: Outline, rng: np.random.Generator) -> Map:
    """Draw brown globules, evenly or, with disorder, in clumps and of uneven size."""
    disorder = outline.looks.disorder
    clumps = cloud_noise(rng, (FRAME, FRAME), 5, 1)
    where = outline.mask * smoothstep(clumps, -2 + 2 * disorder, -0.5 + 2 * disorder)
    size = 0.07 * outline.millimetre
    return scatter_dots(rng, where, 420, (size * (1 - 0.4 * disorder), size * (1.1 + disorder)))


def draw_streaks(outline: Outline, rng: np.random.Generator) -> Map:
    """Draw radial streaks that end in bulbs at one or two stretches of the border."""
    drawing = np.zeros((FRAME, FRAME), np.uint8)
    middle = np.array([FRAME / 2, FRAME / 2])
    sector = rng.uniform(0, 2 * np.pi)
    solid = 0.45 * outline.looks.softness
    for start in _border_points(outline, rng, 110, solid):
        outward = (start - middle) / (np.linalg.norm(start - middle) + 1e-6)
        if np.cos(np.arctan2(outward[1], outward[0]) - sector) < -0.1:
            continue
        length = rng.uniform(0.08, 0.32) * outline.millimetre
        bend = rng.normal(0, 0.25) * np.array([-outward[1], outward[0]])
        tip = start + (outward + bend) * length
        root = start - outward * length * 1.6
        _polyline(drawing, np.stack([root, start, tip]), int(rng.integers(90, 230)), 2)
        cv2.circle(drawing, np.round(tip).astype(int).tolist(), 2, 200, -1, cv2.LINE_AA)
    return _blurred(drawing, 1.2)


def draw_patch(outline: Outline, rng: np.random.Generator, cells: float, level: float) -> Map:
    """Draw one or a few soft patches inside; a higher `level` leaves less of them."""
    noise = cloud_noise(rng, (FRAME, FRAME), cells, 3)
    return smoothstep(noise, level, level + 1.1) * outline.mask


def draw_veil(outline: Outline, rng: np.random.Generator) -> Map:
    """Draw a structureless blue-white veil over a part of the lesion."""
    return draw_patch(outline, rng, 3.5, 0.1) * smoothstep(outline.inside, 0.05, 0.35)


def draw_regression(outline: Outline, rng: np.random.Generator) -> Map:
    """Draw scar-like white areas where pigment has gone."""
    return draw_patch(outline, rng, 4, 0.35) * smoothstep(outline.inside, 0.0, 0.3)


def draw_arborising_vessels(outline: Outline, rng: np.random.Generator) -> Map:
    """Draw thick vessels that enter at the border and branch into fine ones."""
    drawing = np.zeros((FRAME, FRAME), np.uint8)
    middle = np.array([FRAME / 2, FRAME / 2])
    for start in _border_points(outline, rng, int(rng.integers(2, 5))):
        aim = middle + rng.normal(0, 0.3 * RADIUS, 2) - start
        heading = float(np.arctan2(aim[1], aim[0]))
        _draw_branches(drawing, rng, start, heading, int(rng.integers(3, 5)))
    return _blurred(drawing, 0.8) * smoothstep(outline.inside, -0.25, 0.1)


def _draw_branches(
    drawing: NDArray[np.uint8],
    rng: np.random.Generator,
    start: Points,
    heading: float,
    thickness: int,
) -> None:
    """Draw a winding vessel and, from it, thinner ones."""
    turns = heading + np.cumsum(rng.normal(0, 0.3, 9))
    steps = rng.uniform(4, 10) * (0.7 + 0.1 * thickness)
    path = start + np.cumsum(np.stack([np.cos(turns), np.sin(turns)], -1) * steps, axis=0)
    _polyline(drawing, np.vstack([start, path]), 110 + 30 * thickness, thickness)
    if thickness <= 1:
        return
    for place in rng.choice(9, 2 + int(rng.integers(0, 2)), replace=False):
        side = rng.choice((-1, 1)) * rng.uniform(0.4, 1.0)
        thinner = thickness - int(rng.integers(1, 3))
        _draw_branches(drawing, rng, path[place], float(turns[place] + side), max(1, thinner))


def draw_dotted_vessels(outline: Outline, rng: np.random.Generator) -> Map:
    """Draw red dots, the ends of vessels that point at the lens."""
    size = 0.035 * outline.millimetre
    return scatter_dots(rng, outline.mask, 500, (0.7 * size, 1.5 * size))


def draw_lacunae(outline: Outline, rng: np.random.Generator) -> Map:
    """Draw red lagoons, round and apart from each other."""
    spacing = rng.uniform(0.3, 0.75) * outline.millimetre
    cells = draw_cells(rng, (FRAME, FRAME), spacing, 0.45)
    fill = rng.uniform(0.1, 1.4, int(cells.labels.max()) + 1).astype(np.float32)
    lakes = fill[cells.labels] * smoothstep(cells.depth, 0.8, 0.3)
    soft: Map = cv2.GaussianBlur(lakes, (0, 0), 0.09 * spacing)
    return (soft - 0.3) * outline.mask


def draw_nests(outline: Outline, rng: np.random.Generator) -> Map:
    """Draw blue-grey ovoid nests and leaf-like areas near the rim."""
    rim = outline.mask * smoothstep(outline.inside, 0.9, 0.3)
    size = outline.millimetre
    large = scatter_dots(rng, rim, 45, (0.10 * size, 0.38 * size), 3.0)
    small = scatter_dots(rng, rim, 110, (0.04 * size, 0.09 * size), 1.4)
    ragged = 1 + 0.25 * cloud_noise(rng, (FRAME, FRAME), 28, 2)
    nests: Map = np.minimum(large + small, 1)
    return nests * ragged


def draw_ulcer(outline: Outline, rng: np.random.Generator) -> Map:
    """Draw an ulcer with an orange to dark red crust."""
    x, y = rng.normal(FRAME / 2, 0.3 * RADIUS, 2).tolist()
    axis = np.arange(FRAME, dtype=np.float32)
    size = rng.uniform(0.18, 0.42) * RADIUS
    depth = 1 - np.hypot(axis[None, :] - x, axis[:, None] - y) / size
    ragged = depth + 0.25 * cloud_noise(rng, (FRAME, FRAME), 14, 3)
    crust = 1 + 0.25 * cloud_noise(rng, (FRAME, FRAME), 40, 2)
    return smoothstep(ragged, 0, 0.25) * crust * smoothstep(outline.inside, -0.2, 0.1)


def draw_milia(outline: Outline, rng: np.random.Generator) -> Map:
    """Draw milia-like cysts: small white balls."""
    size = 0.07 * outline.millimetre
    return scatter_dots(rng, outline.mask, int(rng.integers(40, 140)), (size, 2.2 * size), 1.3)


def draw_comedones(outline: Outline, rng: np.random.Generator) -> Map:
    """Draw comedo-like openings: dark brown plugs with a firm edge."""
    size = 0.06 * outline.millimetre
    return scatter_dots(rng, outline.mask, int(rng.integers(40, 150)), (size, 2.4 * size), 1.0)


def draw_ridges(outline: Outline, rng: np.random.Generator) -> Map:
    """Draw gyri and sulci, or a fingerprint: stripes bent by noise."""
    period = rng.uniform(0.28, 0.5) * outline.millimetre
    axis = np.arange(FRAME, dtype=np.float32) * (2 * np.pi / period)
    heading = rng.uniform(0, np.pi)
    along = axis[None, :] * math.cos(heading) + axis[:, None] * math.sin(heading)
    bends = 4.5 * cloud_noise(rng, (FRAME, FRAME), 5, 3)
    present = smoothstep(cloud_noise(rng, (FRAME, FRAME), 4, 2), -1.0, 1.2)
    ridges: Map = np.sin(along + bends)
    return ridges * present * outline.mask


def draw_follicles(outline: Outline, rng: np.random.Generator) -> Map:
    """Draw follicle openings in a red ground, the strawberry pattern."""
    spacing = rng.uniform(0.45, 0.65) * outline.millimetre
    cells = draw_cells(rng, (FRAME, FRAME), spacing, 0.3)
    opening = rng.uniform(0.15, 0.25)
    return smoothstep(cells.depth, opening + 0.12, opening) * outline.mask


def draw_scale(outline: Outline, rng: np.random.Generator) -> Map:
    """Draw flakes of white and yellow surface scale."""
    flakes = cloud_noise(rng, (FRAME, FRAME), 30, 3)
    spread = cloud_noise(rng, (FRAME, FRAME), 4, 1)
    return smoothstep(flakes + 0.8 * spread, 0.9, 1.6) * outline.mask


def draw_scar(outline: Outline, rng: np.random.Generator) -> Map:
    """Draw a white scar-like patch in the middle, as dermatofibromas have."""
    noise = cloud_noise(rng, (FRAME, FRAME), 10, 3)
    depth = outline.inside + 0.10 * noise
    fibres = 0.9 + 0.15 * cloud_noise(rng, (FRAME, FRAME), 30, 2)
    return smoothstep(depth, 0.35, 0.95) * fibres


class Structure(NamedTuple):
    """How a structure is drawn and what it is made of at full strength."""

    draw: Callable[[Outline, np.random.Generator], Map]
    pigments: Pigments


# In the order in which they lie on each other; the names are fields of `LesionAppearance`.
STRUCTURES: Mapping[str, Structure] = {
    "network": Structure(draw_rim_network, Pigments(melanin=1.25)),
    "globules": Structure(draw_globules, Pigments(melanin=1.15, deep=0.15)),
    "streaks": Structure(draw_streaks, Pigments(melanin=1.3, deep=0.15)),
    "nests": Structure(draw_nests, Pigments(melanin=0.6, deep=1.25)),
    "lacunae": Structure(draw_lacunae, Pigments(blood=1.1, deep=0.35)),
    "ridges": Structure(draw_ridges, Pigments(melanin=0.30, keratin=0.08)),
    "dotted_vessels": Structure(draw_dotted_vessels, Pigments(blood=0.75)),
    "arborising_vessels": Structure(draw_arborising_vessels, Pigments(blood=1.0, deep=0.1)),
    "veil": Structure(draw_veil, Pigments(melanin=-0.1, deep=0.85, white=0.16)),
    "regression": Structure(draw_regression, Pigments(melanin=-0.75, deep=0.15, white=0.32)),
    "comedones": Structure(draw_comedones, Pigments(melanin=1.3, keratin=0.5)),
    "follicles": Structure(draw_follicles, Pigments(blood=-0.3, keratin=0.25, white=0.4)),
    "milia": Structure(draw_milia, Pigments(melanin=-0.3, white=0.55)),
    "ulcer": Structure(draw_ulcer, Pigments(melanin=0.45, blood=0.9, keratin=0.6)),
    "scar": Structure(draw_scar, Pigments(melanin=-0.3, blood=-0.08, white=0.65)),
    "scale": Structure(draw_scale, Pigments(keratin=0.25, white=0.5)),
}


def draw_lesion(looks: LesionAppearance, rng: np.random.Generator) -> Map:
    """Draw a lesion in its own frame.

    Args:
        looks: what it looks like.
        rng: decides the details; the same state gives the same lesion.

    Returns:
        float32 (5, FRAME, FRAME), densities to add to those of the skin.
    """
    outline = draw_outline(looks, rng)
    stack = np.zeros((len(Pigments._fields), FRAME, FRAME), np.float32)
    body = Pigments(looks.melanin, looks.deep, looks.blood, looks.keratin)
    _add_pigments(stack, draw_body(outline, rng), body, 1.0)
    for name, structure in STRUCTURES.items():
        strength = getattr(looks, name)
        if strength > 0:
            _add_pigments(stack, structure.draw(outline, rng), structure.pigments, strength)
    return np.maximum(stack, 0, out=stack)  # nothing takes pigment from the skin below


def _add_pigments(stack: Map, where: Map, pigments: Pigments, strength: float) -> None:
    """Add `pigments` to a stack, as much of them as `where` says."""
    for channel, density in enumerate(pigments):
        if density:
            stack[channel] += where * (strength * density)


@dataclass(frozen=True)
class View:
    """How the lens looks at a lesion, and what is in the way.

    Attributes:
        angle: turn of the lesion, radians.
        millimetre: pixels.
        shift: of the lesion from the middle of the picture, pixels.
        light: factor for red, green and blue.
        gradient: loss of light across the picture, per half width.
        gradient_angle: direction of that loss, radians.
        vignette: loss of light in the corners, 0 to 1.
        aperture: radius of the round field in half widths; 0 for none.
        hairs: number of hairs.
        bubbles: number of gel bubbles.
        ruler: whether a millimetre scale is seen.
        blur: standard deviation of the lens's blur, pixels.
        grain: standard deviation of sensor noise, 0 to 1.
    """

    angle: float
    millimetre: float
    shift: tuple[float, float]
    light: tuple[float, float, float]
    gradient: float
    gradient_angle: float
    vignette: float
    aperture: float
    hairs: int
    bubbles: int
    ruler: bool
    blur: float
    grain: float


def sample_view(skin: Skin, radius: float, rng: np.random.Generator) -> View:
    """Decide how one picture is taken; nothing here depends on the diagnosis.

    Args:
        skin: hairs follow its hairiness.
        radius: of the lesion, millimetres: the lens is held so that most of it is seen.
        rng: decides everything.
    """
    span = WIDTH * rng.uniform(0.14, 0.34)
    exposure = rng.uniform(0.86, 1.06)
    red, blue = rng.normal(1.0, 0.03), rng.normal(1.02, 0.07)
    hairy = rng.random() < 0.25 + 0.6 * skin.hairiness
    return View(
        angle=rng.uniform(0, 2 * np.pi),
        millimetre=float(np.clip(span / radius, 24, 80)),
        shift=(rng.normal(0, 0.05 * WIDTH), rng.normal(0, 0.05 * HEIGHT)),
        light=(exposure * red, exposure, exposure * blue),
        gradient=rng.uniform(0, 0.14),
        gradient_angle=rng.uniform(0, 2 * np.pi),
        vignette=rng.uniform(0, 0.35),
        aperture=rng.uniform(0.86, 1.12) if rng.random() < 0.14 else 0.0,
        hairs=int(rng.gamma(1.5, 14 * skin.hairiness + 2)) if hairy else 0,
        bubbles=int(rng.integers(1, 9)) if rng.random() < 0.15 else 0,
        ruler=bool(rng.random() < 0.15),
        blur=rng.uniform(0.4, 1.2),
        grain=rng.uniform(0.003, 0.010),
    )


def draw_skin(skin: Skin, millimetre: float, rng: np.random.Generator) -> Map:
    """Draw skin without a lesion: tone, blotches, furrows, freckles and fine vessels.

    Args:
        skin: the patient's.
        millimetre: pixels.
        rng: decides the details.

    Returns:
        float32 (5, HEIGHT, WIDTH), densities.
    """
    half = (HEIGHT // 2, WIDTH // 2)  # skin has no detail that half the resolution misses
    furrows = draw_cells(rng, half, rng.uniform(0.2, 0.4) * millimetre / 2, 0.45, 0.9).edges
    melanin = skin.melanin * (1 + (0.04 + 0.10 * skin.sun_damage) * cloud_noise(rng, half, 6, 4))
    melanin += 0.014 * cloud_noise(rng, half, 70, 2) + rng.uniform(0.01, 0.05) * furrows
    blood = skin.blood * (1 + (0.03 + 0.12 * skin.sun_damage) * cloud_noise(rng, half, 5))
    if skin.sun_damage > 0.6:
        spots = np.full(half, 0.8, np.float32)
        freckles = scatter_dots(rng, spots, int(40 * skin.sun_damage), (1.5, 9), 3.5)
        melanin += 0.5 * (skin.sun_damage - 0.4) * freckles
        blood += 0.7 * (skin.sun_damage - 0.5) * _fine_vessels(half, rng)
    stack = np.zeros((len(Pigments._fields), HEIGHT, WIDTH), np.float32)
    stack[0], stack[2] = _enlarge(melanin, (HEIGHT, WIDTH)), _enlarge(blood, (HEIGHT, WIDTH))
    return stack


def _fine_vessels(shape: tuple[int, int], rng: np.random.Generator) -> Map:
    """Draw the winding red lines of sun-damaged skin."""
    drawing = np.zeros(shape, np.uint8)
    for _ in range(int(rng.integers(6, 22))):
        start = rng.uniform(0, (shape[1], shape[0]))
        turns = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.35, 14))
        path = start + np.cumsum(np.stack([np.cos(turns), np.sin(turns)], -1) * 6, axis=0)
        _polyline(drawing, path, int(rng.integers(90, 230)), 1)
    return _blurred(drawing, 1.0)


def place_lesion(skin: Map, lesion: Map, radius: float, view: View) -> Map:
    """Move a lesion from its own frame onto the skin.

    Args:
        skin: float32 (5, HEIGHT, WIDTH), densities.
        lesion: float32 (5, FRAME, FRAME), densities.
        radius: of the lesion, millimetres.
        view: where the lesion is seen and how large.

    Returns:
        float32 (5, HEIGHT, WIDTH), densities of both together.
    """
    scale = view.millimetre * radius / RADIUS
    cosine, sine = scale * np.cos(view.angle), scale * np.sin(view.angle)
    turn = np.array([[cosine, -sine], [sine, cosine]])
    centre = np.array([WIDTH / 2 + view.shift[0], HEIGHT / 2 + view.shift[1]])
    offset = centre - turn @ np.array([FRAME / 2, FRAME / 2])
    matrix = np.column_stack([turn, offset])
    together = skin.copy()
    for channel, layer in enumerate(lesion):
        if layer.any():
            together[channel] += cv2.warpAffine(layer, matrix, (WIDTH, HEIGHT))
    return together


def shine_through(pigments: Map) -> Map:
    """Turn densities into the colour of the skin under white light.

    Args:
        pigments: float32 (5, height, width).

    Returns:
        float32 (height, width, 3), RGB, 0 to 1.
    """
    white = np.minimum(pigments[4], 0.85)
    colours = []
    for absorption, bare, scattered in zip(ABSORPTION, BARE_SKIN, SCATTERED_WHITE, strict=True):
        absorbed = sum(part * layer for part, layer in zip(absorption, pigments[:4], strict=True))
        passed = bare * cv2.exp(-absorbed)
        colours.append(passed + white * (scattered - passed))
    return np.asarray(cv2.merge(colours))


def draw_light(picture: Map, view: View) -> Map:
    """Apply the lamp: colour cast, a gradient, dark corners, the round field of some lenses."""
    small = (HEIGHT // 4, WIDTH // 4)
    y, x = np.mgrid[-0.75 : 0.75 : small[0] * 1j, -1 : 1 : small[1] * 1j]
    x, y = x - view.shift[0] / WIDTH, y - view.shift[1] / WIDTH
    slope = x * np.cos(view.gradient_angle) + y * np.sin(view.gradient_angle)
    distance = np.hypot(x, y)
    light = (1 - view.gradient * slope) * (1 - view.vignette * (distance / 1.25) ** 3)
    if view.aperture:
        light *= np.clip((view.aperture - distance) * 25, 0.03, 1)
    coloured = (light[..., None] * view.light).astype(np.float32)
    return picture * _enlarge(coloured, (HEIGHT, WIDTH))


def draw_hairs(picture: Map, skin: Skin, view: View, rng: np.random.Generator) -> Map:
    """Lay hairs over the picture, most of them combed one way."""
    if view.hairs == 0:
        return picture
    drawing = np.zeros((HEIGHT, WIDTH), np.uint8)
    combed = rng.uniform(0, np.pi)
    thickest = int(rng.integers(1, 4))
    for _ in range(view.hairs):
        heading = combed + rng.normal(0, 0.35)
        length = rng.uniform(0.15, 0.75) * WIDTH
        bend = rng.normal(0, 0.8)
        turns = heading + bend * np.linspace(-0.5, 0.5, 16)
        path = np.cumsum(np.stack([np.cos(turns), np.sin(turns)], -1) * length / 16, axis=0)
        path += rng.uniform(0, (WIDTH, HEIGHT)) - path.mean(0)
        strength = int(rng.integers(110, 245))
        _polyline(drawing, path, strength, 1)
        _polyline(drawing, path[2:-4], strength, int(rng.integers(1, thickest + 1)))
    cover = _blurred(drawing, 0.6)[..., None]
    return picture + cover * (np.array(skin.hair_colour, np.float32) - picture)


def draw_ruler(picture: Map, view: View, rng: np.random.Generator) -> Map:
    """Print a millimetre scale along one edge, every fifth mark longer."""
    if not view.ruler:
        return picture
    drawing = np.zeros((HEIGHT, WIDTH), np.uint8)
    tilt = rng.normal(0, 0.08) + rng.choice((0, np.pi / 2, np.pi, 3 * np.pi / 2))
    along, inward = (
        np.array([np.cos(tilt), np.sin(tilt)]),
        np.array([-np.sin(tilt), np.cos(tilt)]),
    )
    reach = abs(inward) @ np.array([WIDTH, HEIGHT]) / 2 - rng.uniform(8, 30)
    origin = np.array([WIDTH / 2, HEIGHT / 2]) - inward * reach
    for mark in range(-20, 21):
        foot = origin + along * mark * view.millimetre * 0.5
        length = 26 if mark % 5 == 0 else 13
        _polyline(drawing, np.stack([foot, foot + inward * length]), 225, 2)
    return picture * (1 - _blurred(drawing, 0.7)[..., None])


def draw_bubbles(picture: Map, view: View, rng: np.random.Generator) -> Map:
    """Put bubbles of immersion gel on the lens: a dark rim, a bright inner edge, a glint."""
    if view.bubbles == 0:
        return picture
    dark = np.zeros((HEIGHT, WIDTH), np.uint8)
    bright = np.zeros((HEIGHT, WIDTH), np.uint8)
    for _ in range(view.bubbles):
        x, y = rng.uniform(0, (WIDTH, HEIGHT)).astype(int).tolist()
        radius = int(rng.gamma(2.0, 6.0)) + 4
        cv2.circle(dark, (x, y), radius, 120, 2, cv2.LINE_AA)
        cv2.circle(bright, (x, y), radius - 2, 90, 1, cv2.LINE_AA)
        glint = (round(x - 0.4 * radius), round(y - 0.4 * radius))
        cv2.circle(bright, glint, max(1, radius // 6), 255, -1, cv2.LINE_AA)
    shaded = picture * (1 - _blurred(dark, 1.0)[..., None])
    return shaded + _blurred(bright, 0.8)[..., None] * (1 - shaded)


def expose(picture: Map, view: View, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blur and add grain as a camera does: float RGB of 0 to 1 becomes uint8 RGB."""
    levels = np.asarray(cv2.GaussianBlur(picture, (0, 0), view.blur))
    coarse = rng.standard_normal((HEIGHT * 2 // 3, WIDTH * 2 // 3), np.float32)
    levels += view.grain * _enlarge(coarse, (HEIGHT, WIDTH))[..., None]
    exposed: NDArray[np.uint8] = np.clip(255 * levels, 0, 255).astype(np.uint8)
    return exposed


def draw_picture(
    skin: Skin,
    looks: LesionAppearance,
    view: View,
    lesion_rng: np.random.Generator,
    view_rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Draw one dermoscopy-like picture.

    Args:
        skin: the patient's.
        looks: the lesion's.
        view: how this picture is taken.
        lesion_rng: decides the lesion's details; start it alike for each of its pictures.
        view_rng: decides everything around it.

    Returns:
        uint8 (HEIGHT, WIDTH, 3), RGB.
    """
    pigments = draw_skin(skin, view.millimetre, view_rng)
    pigments = place_lesion(pigments, draw_lesion(looks, lesion_rng), looks.radius, view)
    picture = draw_hairs(shine_through(pigments), skin, view, view_rng)
    picture = draw_bubbles(picture, view, view_rng)
    picture = draw_light(picture, view)
    picture = draw_ruler(picture, view, view_rng)
    return expose(picture, view, view_rng)
