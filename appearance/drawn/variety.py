"""The variations of the synthetic images: one named setting each, so that each can be switched off and measured.

A setting is a range (low, high) of a uniform distribution, or a probability. `Variety().without("noise")` has all
variations but noise: a range becomes its neutral value, a probability becomes 0.
"""

from dataclasses import dataclass, replace

import numpy as np

Range = tuple[float, float]


# Neutral values, where they are not 0.
PLAIN = {
    "tilt": 0.15,
    "exposure": 1.0,
    "contrast": 1.0,
    "saturation": 0.7,
    "quality": 92.0,
    "resolution": 128.0,
    "flicker": 1.0,
    "build": 1.0,
    "stride": 0.6,
    "size": 0.93,
    "aspect": 0.5,
    "second": 1.0,
    "vivid": 1.0,
    "skin": 1.0,
}


@dataclass(frozen=True)
class Variety:
    """All settings. Values are drawn once per camera, once per person, or once per image, as grouped below."""

    # per camera: mounting
    tilt: Range = (-0.08, 0.5)  # radians it looks down
    nearness: Range = (0.0, 0.4)  # a person's height over the distance, for perspective
    # per camera: light
    exposure: Range = (0.85, 1.2)
    cast: Range = (0.0, 0.03)  # standard deviation of the white balance gains
    contrast: Range = (0.95, 1.3)
    haze: Range = (0.0, 0.06)  # fraction of grey added to the image
    saturation: Range = (0.45, 0.8)
    sun: float = 0.45  # probability of sunlight, with sharp shadows
    night: float = 0.02  # probability
    # per camera: image
    sharpness: Range = (-0.3, 1.0)  # below 0 blurred, above 0 sharpened
    noise: Range = (0.5, 7.0)  # standard deviation of the sensor's noise, pixel values
    quality: Range = (45, 92)  # JPEG quality
    resolution: Range = (56, 150)  # height of the box in pixels before it is resized to 128
    # per image
    flicker: Range = (0.85, 1.18)  # factor on the exposure
    shade: float = 0.3  # probability that a shadow covers part of the box
    motion: float = 0.1  # probability of motion blur
    # per person; numbers without a range are probabilities
    build: Range = (0.82, 1.3)  # breadth relative to height
    pattern: float = 0.38  # cloth with a pattern
    print: float = 0.4  # a print on chest or back
    colours: float = 0.34  # bright clothes; the others are black, white, grey, blue or beige
    jacket: float = 0.22  # over the shirt
    skirt: float = 0.2  # a skirt or dress
    hat: float = 0.12
    glasses: float = 0.3
    beard: float = 0.12
    bag: float = 0.58
    twin: float = 0.2  # the same clothes as another person
    # per visit to a camera
    change: float = 0.1  # jacket off or on, bag left behind or in the other hand
    umbrella: float = 0.02
    bicycle: float = 0.06
    # pose and cloth
    heading: Range = (-3.1416, 3.1416)  # radians; 0: towards the camera, positive: to the right of the image
    stride: Range = (0.1, 1.15)
    gesture: float = 0.4  # arms that do not swing (phone, pocket, strap, carrying)
    folds: Range = (0.05, 0.25)  # depth of the folds, in brightness
    shading: Range = (0.25, 0.85)  # strength of the shading (per camera)
    # per image: the box
    shift: Range = (0.0, 0.075)  # standard deviation of the box's position, over its width
    size: Range = (0.84, 1.02)  # height of the person over that of the box
    aspect: Range = (0.34, 0.5)  # width of the box over its height, before it is resized to 64x128
    cut: float = 0.13  # badly placed box: feet, head or a side outside
    occlusion: float = 0.2  # a pole, a plant, furniture in front
    company: float = 0.28  # another person beside or in front
    behind: float = 0.3  # another person far behind
    # added later; neutral in the sample dataset, whose images must not change
    second: Range = (1.0, 1.0)  # contrast of a pattern's second colour
    vivid: Range = (1.0, 1.0)  # factor on the saturation of clothes
    skin: Range = (1.0, 1.0)  # factor on the brightness of skin

    def without(self, *names: str) -> "Variety":
        """These settings with the variations `names` switched off. Raises KeyError for an unknown name."""
        plain = {}
        for name in names:
            value = PLAIN.get(name, 0.0)
            plain[name] = (value, value) if isinstance(vars(self)[name], tuple) else value
        return replace(self, **plain)


EVERYTHING = Variety()  # the sample dataset
RICH = replace(
    EVERYTHING, second=(0.3, 1.0), vivid=(0.7, 1.5), skin=(0.7, 0.98)
)  # training data of the weights in weights/
NAMED = {"sample": EVERYTHING, "rich": RICH}


def within(rng: np.random.Generator, bounds: Range) -> float:
    """A uniform random value; consumes no random number if low == high.

    So neutral settings that are added later do not change the other random numbers.
    """
    low, high = bounds
    return low if low == high else float(rng.uniform(low, high))
