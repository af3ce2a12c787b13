"""What the HTML pages share: style, charts, and the care that hostile text needs."""
