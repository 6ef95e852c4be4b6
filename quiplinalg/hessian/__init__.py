"""Second moments of a layer's inputs: accumulated, merged, judged, refreshed and estimated."""
