"""All seeded faults."""

import other_faults
import refine_faults
import rounding_faults
import scale_faults
import search_faults
import second_order_faults

FAULTS = (
    *rounding_faults.FAULTS,
    *other_faults.FAULTS,
    *second_order_faults.FAULTS,
    *search_faults.FAULTS,
    *scale_faults.FAULTS,
    *refine_faults.FAULTS,
)
