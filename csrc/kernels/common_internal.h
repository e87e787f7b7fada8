// The instruction set in use, for the files that dispatch to one of the compiled variants.
#pragma once

namespace pe {

enum : int { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };

// One of the above. Kernels ask once, when they start.
int isa_level();

}  // namespace pe
