// What the CUDA runtime sees. Answers without a GPU, a driver or a toolkit, too: that is what it is for.
#pragma once

#include <string>
#include <vector>

namespace embedtrain {

struct CudaDevice {
    std::string name;
    int major, minor;  // compute capability
    size_t bytes;      // of global memory
};

struct CudaReport {
    int runtime = 0;    // version the module was built with (13000 = 13.0)
    int driver = 0;     // newest version that the driver supports; 0: no driver
    std::string error;  // why there is no device, in the runtime's words; empty if there is one
    std::vector<CudaDevice> devices;
};

CudaReport cuda_report();

}  // namespace embedtrain
