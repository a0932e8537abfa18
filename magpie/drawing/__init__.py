"""Figures as pictures: SVG inside a page, PNG and SVG files for a card."""
