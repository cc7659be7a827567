"""From a picture to candidates for digits, and to the 28x28 pixels that a network sees.

In order: `decode` opens a picture, `binarize` tells its ink from its paper, `page` and `ruling`
(with `tracks`) take away what is not written by hand, `components` cuts the rest into candidates,
and `preprocess` brings them to 28x28 pixels; `morphology` has what several of them need. Each step
takes arrays and returns arrays; `tinydigits.reader` calls them.
"""
