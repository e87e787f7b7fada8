// The device that a library of operators computes on. The sources of the operators are compiled once for
// each: what a device asks of tensors, how its kernels are called, and their names are all that differs.
#pragma once

#ifdef PE_DEVICE_CUDA
#include "device_cuda.h"
#else
#include "device_cpu.h"
#endif
