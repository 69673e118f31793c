"""Figures of merit on labelled images, with bootstrap intervals; one module for each stage."""
