"""The demonstration: photographs, distortions of known strength, and what every metric says of them."""
