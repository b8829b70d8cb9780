#include <cuda_runtime.h>

#include "cuda/device.h"

namespace embedtrain {

CudaReport cuda_report() {
    CudaReport report;
    cudaRuntimeGetVersion(&report.runtime);
    cudaDriverGetVersion(&report.driver);
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess) {
        report.error = cudaGetErrorString(status);
        return report;
    }
    for (int i = 0; i < count; ++i) {
        cudaDeviceProp properties;
        if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
        report.devices.push_back(
            {properties.name, properties.major, properties.minor, properties.totalGlobalMem});
    }
    return report;
}

}  // namespace embedtrain
