// The search of a few vectors, a streaming frame: a cluster of blocks for each, which share out the codes of every book
// and exchange the nearest of each block through shared memory. All distances are exact, so nothing is prepared.
// Clusters came with compute capability 9.0.
#pragma once

constexpr int CLUSTER = 8, FRAME_THREADS = 1024;
constexpr int FLIGHT = 16;  // elements of a code vector that a thread waits for together

struct Nearest {
  double distance = INF;
  int code = 0x7fffffff;

  __device__ void take(double other, int other_code) {
    if (other < distance || (other == distance && other_code < code)) distance = other, code = other_code;
  }
  __device__ void take_from(uint32_t mask, int step) {
    const double other = __shfl_xor_sync(mask, distance, step);
    const int other_code = __shfl_xor_sync(mask, code, step);
    take(other, other_code);
  }
};

inline size_t frame_bytes(int dim) { return (CLUSTER * 2 + FRAME_THREADS / 32) * 12 + dim * sizeof(float); }

__global__ void __launch_bounds__(FRAME_THREADS) frame(const Problem p) {
  DYNAMIC_SHARED(shared);
  const int thread = threadIdx.x, warp = thread / 32, rank = blockIdx.x % CLUSTER, row = blockIdx.x / CLUSTER;
  const int group = blockIdx.y, l = thread % 8;  // a running sum of reference.py
  const uint32_t mask = 0xffu << thread % 32 / 8 * 8;
  double* const distances = (double*)shared;                 // (2, CLUSTER), then (warps)
  int* const codes = (int*)(distances + CLUSTER * 2 + FRAME_THREADS / 32);  // likewise
  float* const residual = (float*)(codes + CLUSTER * 2 + FRAME_THREADS / 32);
  for (int j = thread; j < p.dim; j += FRAME_THREADS) residual[j] = p.x[((int64_t)group * p.rows + row) * p.dim + j];
  for (int stage = 0; stage < p.stages; ++stage) {
    __syncthreads();
    const float* const book = p.books + ((int64_t)group * p.stages + stage) * p.size * p.dim;
    Nearest nearest;
    for (int code = rank * (FRAME_THREADS / 8) + thread / 8; code < p.size; code += CLUSTER * (FRAME_THREADS / 8)) {
      double sum = 0;
      for (int first = l; first < p.dim; first += 8 * FLIGHT) {
        float c[FLIGHT];
#pragma unroll
        for (int i = 0; i < FLIGHT; ++i)
          if (first + 8 * i < p.dim) c[i] = book[(int64_t)code * p.dim + first + 8 * i];
#pragma unroll
        for (int i = 0; i < FLIGHT; ++i)
          if (first + 8 * i < p.dim) {
            const double d = __dsub_rn((double)residual[first + 8 * i], (double)c[i]);
            sum = __dadd_rn(sum, __dmul_rn(d, d));
          }
      }
#pragma unroll
      for (int step = 4; step; step /= 2) sum = __dadd_rn(sum, __shfl_xor_sync(mask, sum, step));
      nearest.take(sum == sum ? sum : (double)INF, code);
    }
    __syncwarp();
    nearest.take_from(0xffffffffu, 8);
    nearest.take_from(0xffffffffu, 16);
    double* const of_warps = distances + CLUSTER * 2;
    int* const codes_of_warps = codes + CLUSTER * 2;
    if (thread % 32 == 0) of_warps[warp] = nearest.distance, codes_of_warps[warp] = nearest.code;
    __syncthreads();
    const int slot = stage % 2 * CLUSTER;  // the other one may still be read
    if (warp == 0) {
      nearest.distance = of_warps[thread], nearest.code = codes_of_warps[thread];
      for (int step = 1; step < 32; step *= 2) nearest.take_from(0xffffffffu, step);
      if (thread < CLUSTER) {
        store_in_cluster(distances + slot + rank, thread, nearest.distance);
        store_in_cluster(codes + slot + rank, thread, nearest.code);
      }
    }
    cluster_barrier();
    nearest = Nearest();
    for (int i = 0; i < CLUSTER; ++i) nearest.take(distances[slot + i], codes[slot + i]);
    for (int j = thread; j < p.dim; j += FRAME_THREADS)
      residual[j] = __fsub_rn(residual[j], book[(int64_t)nearest.code * p.dim + j]);
    if (rank == 0 && thread == 0) p.codes[((int64_t)group * p.rows + row) * p.stages + stage] = nearest.code;
  }
}
