// What CUDA C++ has no portable spelling for. A test replaces this file by an emulation of the hardware.
#pragma once
#include <cstdint>
#include <cuda_runtime.h>

#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

// Returns from the calling function, with what went wrong, if a call of the runtime fails.
#define CHECK(call)                                                              \
  do {                                                                           \
    const cudaError_t error = (call);                                            \
    if (error != cudaSuccess) return cudaGetErrorString(error);                  \
  } while (0)

// Launches a kernel with `shared` bytes of shared memory.
#define LAUNCH(kernel, grid, threads, shared, stream, ...)                                                  \
  do {                                                                                                      \
    if ((shared) > 48 << 10)                                                                                \
      CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(shared)));      \
    kernel<<<grid, threads, shared, (cudaStream_t)(stream)>>>(__VA_ARGS__);                                 \
    CHECK(cudaGetLastError());                                                                              \
  } while (0)

// The same for blocks in clusters.
#define LAUNCH_CLUSTERS(cluster, kernel, grid, threads, bytes, queue, ...)                                  \
  do {                                                                                                      \
    cudaLaunchConfig_t config = {};                                                                         \
    cudaLaunchAttribute attribute[1];                                                                       \
    attribute[0].id = cudaLaunchAttributeClusterDimension;                                                  \
    attribute[0].val.clusterDim.x = (cluster), attribute[0].val.clusterDim.y = 1, attribute[0].val.clusterDim.z = 1; \
    config.gridDim = grid, config.blockDim = dim3(threads), config.dynamicSmemBytes = (bytes);             \
    config.stream = (cudaStream_t)(queue), config.attrs = attribute, config.numAttrs = 1;                  \
    CHECK(cudaLaunchKernelEx(&config, kernel, __VA_ARGS__));                                                \
  } while (0)

struct Device {
  int processors, shared;  // multiprocessors, bytes of shared memory that a block may have
  int major;               // of the compute capability
};

// Makes a device the current one, which a runtime that is linked into a library does not learn from others.
inline const char* use_device(int index, Device& device) {
  CHECK(cudaSetDevice(index));
  CHECK(cudaDeviceGetAttribute(&device.processors, cudaDevAttrMultiProcessorCount, index));
  CHECK(cudaDeviceGetAttribute(&device.shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, index));
  CHECK(cudaDeviceGetAttribute(&device.major, cudaDevAttrComputeCapabilityMajor, index));
  return nullptr;
}

// Two floats rounded to nearest as bfloat16, the first in the low half.
__device__ inline uint32_t pack_bfloat16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// sum (16 x 8) += a (16 x 16) b (16 x 8), bfloat16 products in float32 sums.
__device__ inline void multiply(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 x 8 matrices of 16-bit elements; thread i gives the address of row i % 8 of matrix i / 8.
__device__ inline void load_matrices(uint32_t (&b)[4], const void* row) {
  const uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
               : "r"(address)
               : "memory");
}

// Sixteen bytes from global to shared memory, not waited for.
__device__ inline void copy_async(void* shared, const void* global) {
  const uint32_t address = (uint32_t)__cvta_generic_to_shared(shared);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global) : "memory");
}
__device__ inline void copy_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Waits for all threads of a cluster; what they have stored is then seen.
__device__ inline void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// Stores at the same place in the shared memory of another block of the cluster.
template <class T>
__device__ void store_in_cluster(T* shared, int rank, T value) {
#if __CUDA_ARCH__ >= 900
  uint32_t address = (uint32_t)__cvta_generic_to_shared(shared);
  asm("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(rank));
  if constexpr (sizeof(T) == 8)
    asm volatile("st.shared::cluster.b64 [%0], %1;" ::"r"(address), "l"(*(const int64_t*)&value) : "memory");
  else
    asm volatile("st.shared::cluster.b32 [%0], %1;" ::"r"(address), "r"(*(const int32_t*)&value) : "memory");
#endif
}
