"""What varies in the drawings and how far: a named setting for each thing, so that each can be taken out and measured.

A setting is a range (low, high) from which a value is drawn evenly, or the chance of something that is there or not.
`Variety().without("noise")` is everything but noise: a range shrinks to the value that changes nothing, a chance to 0.
"""

from dataclasses import dataclass, replace

import numpy as np

Range = tuple[float, float]


# The values that stand for nothing special, where that is not 0.
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
    """The settings; a camera's are drawn once for the camera, a person's once for the person, the rest per image."""

    # a camera: how it hangs
    tilt: Range = (-0.08, 0.5)  # radians that it looks down
    nearness: Range = (0.0, 0.4)  # a person's height over the distance: from above heads are larger than feet
    # its light
    exposure: Range = (0.85, 1.2)
    cast: Range = (0.0, 0.03)  # standard deviation of the white balance's gains
    contrast: Range = (0.95, 1.3)
    haze: Range = (0.0, 0.06)  # share of grey light in front of everything
    saturation: Range = (0.45, 0.8)
    sun: float = 0.45  # light from one side, and shadows with edges
    night: float = 0.02
    # its picture
    sharpness: Range = (-0.3, 1.0)  # below 0 soft, above 0 sharpened as cameras do
    noise: Range = (0.5, 7.0)  # standard deviation of the sensor's noise, pixel values
    quality: Range = (45, 92)  # of the JPEG file
    resolution: Range = (56, 150)  # height in pixels of the box before it is resized to 128
    # an image
    flicker: Range = (0.85, 1.18)  # exposure, from image to image
    shade: float = 0.3  # part of the box lies in the shadow of something
    motion: float = 0.1  # a moving person is smeared
    # a person
    build: Range = (0.82, 1.3)  # breadth for the height
    pattern: float = 0.38  # cloth that is not plain
    print: float = 0.4  # something printed on plain cloth
    colours: float = 0.34  # bright clothes: the others are black, white, grey, blue and beige
    jacket: float = 0.22  # over the shirt
    skirt: float = 0.2  # a skirt or dress
    hat: float = 0.12
    glasses: float = 0.3
    beard: float = 0.12
    bag: float = 0.58
    twin: float = 0.2  # the clothes of somebody else
    # from one visit to the next
    change: float = 0.1  # jacket off or on, bag left behind or in the other hand
    umbrella: float = 0.02
    bicycle: float = 0.06
    # pose and cloth
    heading: Range = (-3.1416, 3.1416)  # 0: towards the camera; positive: to the right of the picture
    stride: Range = (0.1, 1.15)
    gesture: float = 0.4  # arms that do not swing: telephone, pocket, strap, something carried
    folds: Range = (0.05, 0.25)  # depth of the cloth's folds, in brightness
    shading: Range = (0.25, 0.85)  # how far light models the body
    # the box
    shift: Range = (0.0, 0.075)  # standard deviation of the box's corner, over its width
    size: Range = (0.84, 1.02)  # height of the person in the box
    aspect: Range = (0.34, 0.5)  # width of the box over its height, before it is resized to 64 x 128
    cut: float = 0.13  # feet, head or a side outside
    occlusion: float = 0.2  # a pole, a plant, furniture in front
    company: float = 0.28  # other people, beside or in front
    behind: float = 0.3  # and far away
    # what came later; plain in the sample dataset, whose pictures must stay what they are
    second: Range = (1.0, 1.0)  # contrast of a pattern: the share of its second colour
    vivid: Range = (1.0, 1.0)  # saturation of a garment's colours
    skin: Range = (1.0, 1.0)  # brightness of a person's skin

    def without(self, *names: str) -> "Variety":
        """All but these; an unknown name is a KeyError."""
        plain = {}
        for name in names:
            value = PLAIN.get(name, 0.0)
            plain[name] = (value, value) if isinstance(vars(self)[name], tuple) else value
        return replace(self, **plain)


EVERYTHING = Variety()  # of the sample dataset
RICH = replace(EVERYTHING, second=(0.3, 1.0), vivid=(0.7, 1.5), skin=(0.7, 0.98))  # of the weights that come along
NAMED = {"sample": EVERYTHING, "rich": RICH}


def within(rng: np.random.Generator, bounds: Range) -> float:
    """A value drawn evenly; where there is nothing to choose, no random number is used up.

    So a setting that came later, and is plain, leaves all other numbers as they were.
    """
    low, high = bounds
    return low if low == high else float(rng.uniform(low, high))
