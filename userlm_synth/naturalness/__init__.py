"""How human texts look: a classifier trained on the spot, and detectors from elsewhere."""
