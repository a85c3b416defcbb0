"""The cameras of the sample dataset: six places, each with its own light, and the boxes cut from their pictures.

Everything here makes an identity hard to see: the cameras change colours and sharpness, things stand in front of
people, and boxes are badly cut. It knows nothing of datasets; `examples/scene.py` films a moving scene with it.
"""

import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from appearance.drawn.people import VIEWS, Identity, draw_person

WIDTH, HEIGHT = 64, 128  # pixels of an image
SUPERSAMPLE = 2  # everything is drawn this much larger and averaged down, which smooths the edges
SCENE_STREAM = 4  # the first part of a place's key; those of sample.py are smaller


def stream(seed: int, *key: int) -> np.random.Generator:
    """The random stream of one thing, the same in whichever process and order it is asked for."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, *key))))


@dataclass(frozen=True)
class Camera:
    """Where a camera hangs and how it turns light into pixels."""

    number: int  # 1 to 6, as in the file names
    place: str  # one of PLACES: what is behind the people
    gains: tuple[float, float, float]  # white balance: red, green, blue
    exposure: float
    gamma: float
    saturation: float
    blur: float  # standard deviation in pixels of the 64 x 128 image
    noise: float  # standard deviation, pixel values 0 to 255
    quality: int  # of the JPEG file
    pitch: float  # breadth of people relative to their height: a steep view shortens them

    def backdrop(self) -> Image.Image:
        """The empty place as one wide RGB picture, the same at each call."""
        return backdrop(self.place, self.number)

    def develop(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """From the light of a scene to this camera's picture: colours, sharpness and noise; RGB of the same size."""
        image = image.filter(ImageFilter.GaussianBlur(self.blur * rng.uniform(0.7, 1.3)))
        pixels = np.asarray(image).astype(np.float32) / 255  # (H, W, 3)
        exposure = self.exposure * rng.uniform(0.82, 1.2)  # clouds, and automatic exposure
        pixels = pixels * (np.array(self.gains, np.float32) * np.float32(exposure) * rng.uniform(0.95, 1.05, 3))
        grey = pixels.mean(axis=2, keepdims=True)
        pixels = (grey + (pixels - grey) * self.saturation).clip(0, None) ** self.gamma * 255
        pixels += rng.standard_normal(pixels.shape, dtype=np.float32) * self.noise
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


CAMERAS = [
    Camera(1, "street", (1.03, 1.00, 0.97), 1.00, 1.00, 1.00, 0.35, 3.0, 88, 1.00),
    Camera(2, "park", (0.93, 1.03, 0.94), 0.94, 1.06, 1.08, 0.50, 4.0, 80, 0.94),
    Camera(3, "plaza", (0.99, 1.01, 1.06), 1.16, 0.88, 0.90, 0.45, 3.0, 75, 1.08),
    Camera(4, "corridor", (1.13, 1.00, 0.84), 0.92, 0.97, 0.94, 0.60, 6.0, 70, 1.00),
    Camera(5, "crossing", (0.89, 0.98, 1.14), 0.97, 1.00, 0.92, 0.70, 4.0, 65, 1.05),
    Camera(6, "arcade", (1.05, 0.97, 1.01), 0.74, 0.95, 0.85, 0.55, 8.0, 72, 0.97),
]

BACKDROP_WIDTH, BACKDROP_HEIGHT = 1024, 384  # pixels, at the supersampled size


def speckle(image: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
    """Uneven the colours at several scales, from stains to grain."""
    width, height = image.size
    total = np.zeros((height, width), np.float32)
    for cells in (6, 24, 96):
        noise = rng.normal(0, 1, (cells, cells * 3)).astype(np.float32)
        total += np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
    total += rng.normal(0, 0.6, (height, width))
    pixels = np.asarray(image).astype(np.float32) + strength * total[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def street(draw, width, height, rng):
    """A brick house with windows above a pavement and a kerb."""
    ground = int(height * 0.62)
    draw.rectangle([0, 0, width, ground], fill=(150, 96, 78))
    for row in range(0, ground, 12):
        draw.line([0, row, width, row], fill=(186, 160, 146), width=2)
        for x in range((row // 12 % 2) * 14, width, 28):
            draw.line([x, row, x, row + 12], fill=(186, 160, 146), width=2)
    for x in range(40, width, 190):
        draw.rectangle([x, 30, x + 84, 150], fill=(226, 222, 212))
        draw.rectangle([x + 8, 38, x + 76, 142], fill=(74, 92, 112))
        draw.line([x + 42, 38, x + 42, 142], fill=(226, 222, 212), width=6)
    draw.rectangle([0, ground, width, height], fill=(158, 154, 148))
    draw.rectangle([0, int(height * 0.86), width, height], fill=(92, 92, 96))
    draw.rectangle([0, int(height * 0.84), width, int(height * 0.87)], fill=(196, 192, 184))
    for x in range(-200, width, 90):
        draw.line([x, ground, x + 60, int(height * 0.84)], fill=(134, 130, 126), width=3)


def park(draw, width, height, rng):
    """Hedges and trees above a lawn with a sandy path."""
    ground = int(height * 0.5)
    draw.rectangle([0, 0, width, ground], fill=(128, 158, 150))
    for _ in range(260):
        x, y, r = rng.integers(0, width), rng.integers(0, ground), rng.integers(14, 44)
        green = int(rng.integers(70, 130))
        draw.ellipse([x - r, y - r, x + r, y + r], fill=(green - 30, green, green // 3))
    for x in rng.integers(0, width, 9):
        draw.rectangle([x, 0, x + 22, ground + 14], fill=(84, 62, 46))
    draw.rectangle([0, ground + 8, width, height], fill=(98, 136, 62))
    for _ in range(2500):
        x, y = rng.integers(0, width), rng.integers(ground, height)
        draw.line([x, y, x + int(rng.integers(-3, 4)), y - 9], fill=(70, int(rng.integers(100, 160)), 44), width=2)
    draw.polygon([(0, height * 0.8), (width, height * 0.72), (width, height * 0.9), (0, height)], fill=(190, 170, 130))


def plaza(draw, width, height, rng):
    """A glass front above bright tiles."""
    ground = int(height * 0.56)
    for x in range(0, width, 64):
        blue = int(rng.integers(120, 190))
        draw.rectangle([x, 0, x + 64, ground], fill=(blue - 30, blue - 6, blue))
        draw.polygon([(x, 40), (x + 64, 0), (x + 64, 26), (x, 66)], fill=(200, 212, 220))
    for x in range(0, width, 64):
        draw.rectangle([x - 4, 0, x + 4, ground], fill=(66, 70, 76))
    draw.rectangle([0, ground - 10, width, ground], fill=(80, 82, 84))
    draw.rectangle([0, ground, width, height], fill=(206, 200, 190))
    for x in range(-width, 2 * width, 70):
        draw.line([x, height, width / 2 + (x - width / 2) * 0.55, ground], fill=(160, 154, 146), width=3)
    for step in range(1, 7):
        y = ground + (height - ground) * (step / 6) ** 1.6
        draw.line([0, y, width, y], fill=(160, 154, 146), width=3)


def corridor(draw, width, height, rng):
    """Doors and notice boards under lamps, a polished floor."""
    ground = int(height * 0.66)
    draw.rectangle([0, 0, width, ground], fill=(206, 198, 176))
    draw.rectangle([0, int(height * 0.4), width, ground], fill=(150, 158, 146))
    for x in range(30, width, 250):
        draw.rectangle([x, 20, x + 92, ground], fill=(120, 82, 52))
        draw.rectangle([x + 8, 30, x + 84, ground - 4], fill=(158, 112, 72))
        draw.ellipse([x + 70, 150, x + 80, 160], fill=(220, 210, 160))
        draw.rectangle([x + 130, 50, x + 220, 130], fill=(70, 90, 70))
        for _ in range(7):
            px, py = x + 134 + int(rng.integers(0, 66)), 54 + int(rng.integers(0, 54))
            draw.rectangle([px, py, px + 18, py + 22], fill=tuple(int(c) for c in rng.integers(140, 256, 3)))
    draw.rectangle([0, ground, width, height], fill=(126, 118, 106))
    for x in range(60, width, 160):
        draw.polygon([(x, ground), (x + 60, ground), (x + 90, height), (x - 30, height)], fill=(168, 160, 144))
    draw.rectangle([0, ground - 6, width, ground + 4], fill=(70, 62, 54))


def crossing(draw, width, height, rng):
    """Parked cars behind a zebra crossing."""
    ground = int(height * 0.5)
    draw.rectangle([0, 0, width, ground], fill=(140, 146, 150))
    for x in range(0, width, 120):
        shade_of_wall = int(rng.integers(90, 190))
        draw.rectangle([x, 0, x + 120, ground - 30], fill=(shade_of_wall, shade_of_wall, shade_of_wall - 12))
    draw.rectangle([0, ground, width, height], fill=(84, 86, 92))
    for x in range(-20, width, 236):
        paint = tuple(int(c) for c in rng.integers(40, 220, 3))
        draw.rounded_rectangle([x + 40, ground - 80, x + 160, ground - 20], 22, fill=paint)
        draw.rounded_rectangle([x + 54, ground - 70, x + 146, ground - 36], 12, fill=(44, 54, 62))
        draw.rounded_rectangle([x, ground - 42, x + 204, ground + 14], 14, fill=paint)
        for wheel in (x + 42, x + 160):
            draw.ellipse([wheel - 20, ground - 8, wheel + 20, ground + 32], fill=(22, 22, 24))
    for x in range(0, width, 96):
        top, low = ground + 60, height
        draw.polygon([(x, low), (x + 52, low), (x + 40, top), (x + 6, top)], fill=(218, 218, 214))


def arcade(draw, width, height, rng):
    """Lit shop windows in the evening."""
    ground = int(height * 0.64)
    draw.rectangle([0, 0, width, ground], fill=(70, 62, 66))
    for x in range(10, width, 150):
        glow = tuple(int(c) for c in rng.integers(150, 256, 3))
        draw.rectangle([x, 60, x + 126, ground - 18], fill=glow)
        draw.rectangle([x, 20, x + 126, 50], fill=tuple(int(c) for c in rng.integers(30, 256, 3)))
        for _ in range(9):
            px, py = x + int(rng.integers(4, 100)), 70 + int(rng.integers(0, 110))
            draw.rectangle([px, py, px + 20, py + 34], fill=tuple(int(c) for c in rng.integers(20, 256, 3)))
    draw.rectangle([0, ground, width, height], fill=(112, 100, 96))
    for y in range(ground, height, 26):
        draw.line([0, y, width, y], fill=(84, 74, 72), width=3)
        for x in range((y // 26 % 2) * 26, width, 52):
            draw.line([x, y, x, y + 26], fill=(84, 74, 72), width=3)


PLACES = {"street": street, "park": park, "plaza": plaza, "corridor": corridor, "crossing": crossing, "arcade": arcade}


@functools.lru_cache(maxsize=16)
def backdrop(place: str, number: int) -> Image.Image:
    rng = stream(number, SCENE_STREAM)  # a place does not depend on the dataset's seed
    image = Image.new("RGB", (BACKDROP_WIDTH, BACKDROP_HEIGHT))
    PLACES[place](ImageDraw.Draw(image), BACKDROP_WIDTH, BACKDROP_HEIGHT, rng)
    return speckle(image, rng, 7.0)


# -------------------------------------------------------------------------------------------------- taking a picture


@dataclass(frozen=True)
class Framing:
    """How a person stands in a box: 1 is the box's height for `fill` and `dy`, its width for `dx`."""

    fill: float  # the person's height; above 1 the box is too tight
    dx: float  # the centre line's distance from the box's centre
    dy: float  # the soles' distance below the box's lower edge (negative: above)

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Framing":
        fill, dx, dy = rng.uniform(0.84, 0.97), rng.normal(0, 0.05), -rng.uniform(0.0, 0.04)
        mishap = rng.random()
        if mishap < 0.05:  # too loose
            fill, dy = rng.uniform(0.66, 0.78), -rng.uniform(0.03, 0.14)
        elif mishap < 0.10:  # too tight
            fill, dy = rng.uniform(1.04, 1.16), rng.uniform(0.01, 0.1)
        elif mishap < 0.15:  # beside the person, or the frame ends there
            dx = rng.choice([-1, 1]) * rng.uniform(0.16, 0.28)
        elif mishap < 0.19:  # without the feet
            dy = rng.uniform(0.08, 0.2)
        return cls(float(fill), float(dx), float(dy))

    @classmethod
    def piece(cls, rng: np.random.Generator) -> "Framing":
        """A box that no tracker should have cut: a part of a person, much too large or half outside."""
        fill, dx, dy = rng.uniform(1.9, 3.0), rng.uniform(-0.5, 0.5), rng.uniform(0.1, 1.6)
        if rng.random() < 0.4:
            fill, dx, dy = rng.uniform(0.8, 1.1), rng.choice([-1, 1]) * rng.uniform(0.45, 0.62), rng.uniform(-0.3, 0.5)
        return cls(float(fill), float(dx), float(dy))


def place(canvas: Image.Image, person: Image.Image, framing: Framing, pitch: float = 1.0):
    """Paste a person's sheet into the box, with the shadow under the feet."""
    width, height = canvas.size
    size = (max(1, round(person.width * pitch)), person.height)
    person = person.resize(size) if size != person.size else person
    x, y = round(width * (0.5 + framing.dx)), round(height * (1 + framing.dy))
    shadow = Image.new("L", canvas.size)
    rx, ry = person.height * 0.15, person.height * 0.022
    ImageDraw.Draw(shadow).ellipse([x - rx, y - 2 * ry, x + rx * 1.4, y + ry], fill=110)
    canvas.paste((20, 20, 24), (0, 0), shadow)
    canvas.paste(person, (x - person.width // 2, y - person.height), person)


def occlude(canvas: Image.Image, camera: Camera, rng: np.random.Generator):
    """Put something in front: a pole, a bush, a railing or a passer-by."""
    width, height = canvas.size
    draw = ImageDraw.Draw(canvas)
    kind = rng.choice(["pole", "bush", "railing", "passer-by"])
    if kind == "pole":
        x, w = rng.uniform(0.1, 0.9) * width, rng.uniform(0.06, 0.13) * width
        tone = int(rng.integers(50, 150))
        draw.rectangle([x - w / 2, 0, x + w / 2, height], fill=(tone, tone, tone + 4))
        draw.rectangle([x - w / 2, 0, x - w / 4, height], fill=(tone + 40,) * 3)
    elif kind == "bush":
        top = rng.uniform(0.66, 0.84) * height
        for _ in range(110):
            x, y, r = rng.uniform(0, width), rng.uniform(top, height), rng.uniform(3, 11)
            green = int(rng.integers(60, 130))
            draw.ellipse([x - r, y - r, x + r, y + r], fill=(green - 35, green, green // 3))
    elif kind == "railing":
        top = rng.uniform(0.62, 0.78) * height
        for y in (top, top + 0.1 * height):
            draw.rectangle([0, y, width, y + 5], fill=(190, 190, 186))
        for x in np.arange(rng.uniform(0, 30), width, 30):
            draw.rectangle([x, top, x + 4, height], fill=(150, 150, 148))
    else:
        view = str(rng.choice(VIEWS))
        person = draw_person(Identity.random(rng), view, rng.uniform(0, 6.28), round(height * rng.uniform(0.85, 1.1)))
        dx = float(rng.choice([-1, 1]) * rng.uniform(0.38, 0.6))
        place(canvas, person, Framing(1.0, dx, rng.uniform(0.02, 0.12)), camera.pitch)


def photograph(
    person: "tuple[Identity, str, float] | None", camera: Camera, rng: np.random.Generator, framing: Framing
) -> Image.Image:
    """One box of `camera` as a WIDTH x HEIGHT RGB image.

    `person` is (identity, view, phase), or None for a box of nothing but background.
    """
    width, height = WIDTH * SUPERSAMPLE, HEIGHT * SUPERSAMPLE
    x = int(rng.integers(0, BACKDROP_WIDTH - width))
    # The soles stand on the ground: the window looks lower or higher only a little.
    y = int(rng.integers(BACKDROP_HEIGHT - height - 70, BACKDROP_HEIGHT - height))
    canvas = camera.backdrop().crop((x, y, x + width, y + height))
    if rng.random() < 0.15:  # somebody further away
        far = draw_person(Identity.random(rng), str(rng.choice(VIEWS)), rng.uniform(0, 6.28), round(height * 0.55))
        place(canvas, far, Framing(0.55, float(rng.uniform(-0.6, 0.6)), -0.22), camera.pitch)
    if person is not None:
        identity, view, phase = person
        sheet = draw_person(identity, view, phase, round(height * framing.fill))
        place(canvas, sheet, framing, camera.pitch * float(rng.uniform(0.94, 1.06)))
        if rng.random() < 0.2:
            occlude(canvas, camera, rng)
    return camera.develop(canvas.reduce(SUPERSAMPLE), rng)
