// Residual vector quantization on the GPU: all stages of a block of vectors in one launch, and what training derives
// from the codes. The result is that of codec/ops/reference.py. C interface; kernel.py compiles it.
#ifdef RVQ_EMULATION
#include RVQ_EMULATION
#else
#include "hardware.cuh"
#endif

namespace {

#include "search.cuh"
#include "frame.cuh"

template <class S>
__global__ void __launch_bounds__(S::THREADS, S::BLOCKS) encode(const Problem problem) {
  Block<S>(problem).run();
}

// One code of a book as bfloat16 with its extras, by a warp: |c| and the norm of what rounding lost, both from above,
// and minus half the squared norm as three parts. What is no number, and what fills a book up, has no score.
__global__ void prepare(const float* books, uint16_t* prepared, float* longest, int dim, int size, int padded, int width) {
  const int lane = threadIdx.x % 32, code = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  const float* c = books + ((int64_t)blockIdx.y * size + code) * dim;
  uint16_t* to = prepared + ((int64_t)blockIdx.y * padded + code) * width;
  double norm = 0, lost = 0;
  for (int j = lane; j < dim && code < size; j += 32) {
    const double value = c[j], low = value - rounded(c[j]);
    norm += value * value, lost += low * low;
  }
  for (int step = 16; step; step /= 2) {
    norm += __shfl_xor_sync(0xffffffffu, norm, step);
    lost += __shfl_xor_sync(0xffffffffu, lost, step);
  }
  const bool scored = code < size && norm - norm == 0;
  for (int j = lane; j < width; j += 32)
    if (j < dim || j >= dim + EXTRA) to[j] = (uint16_t)(scored && j < dim ? __float_as_uint(rounded(c[j])) >> 16 : 0);
  if (lane) return;
  float extra[EXTRA] = {0, 0, 3 * NOTHING, 0, 0};
  if (scored) {
    const float length = (float)sqrt(norm) * 1.000001f;
    atomicMax((int*)longest + blockIdx.y, __float_as_int(length));
    extra[0] = bfloat16_above(length), extra[1] = bfloat16_above((float)sqrt(lost));
    double rest = -norm / 2;
    for (int i = 2; i < EXTRA; ++i) {
      extra[i] = rounded((float)rest);
      rest = extra[i] - extra[i] == 0 ? rest - extra[i] : 0;
    }
  }
  for (int i = 0; i < EXTRA; ++i) to[dim + i] = (uint16_t)(__float_as_uint(extra[i]) >> 16);
}

// What training derives from the codes; an element of a vector to a thread, a vector to a warp. x, codes and books as
// in Problem; the results as in reference.py, their sums in no fixed order.
__global__ void accumulate(const float* x, const float* books, const int64_t* codes, float* quantized, float* counts,
                           float* sums, int64_t rows, int dim, int stages, int size) {
  const int64_t warps = (int64_t)gridDim.x * (blockDim.x / 32), group = blockIdx.y;
  for (int64_t row = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; row < rows; row += warps) {
    const int64_t at = group * rows + row;
    const int64_t* code = codes + at * stages;
    for (int j = threadIdx.x % 32; j < dim; j += 32) {
      float residual = x[at * dim + j], total = 0;
      for (int k = 0; k < stages; ++k) {
        const int64_t index = ((group * stages + k) * size + code[k]) * dim + j;
        atomicAdd(&sums[index], residual);
        residual = __fsub_rn(residual, books[index]);
        total = __fadd_rn(total, books[index]);
      }
      quantized[at * dim + j] = total;
    }
    for (int k = threadIdx.x % 32; k < stages; k += 32)
      atomicAdd(&counts[(group * stages + k) * size + code[k]], 1.0f);
  }
}

template <class S>
bool fits(const Problem& problem, const Device& device) {
  return Block<S>::bytes(problem.stages, problem.beam) <= (size_t)device.shared;
}

template <class S>
const char* launch(Problem problem, int groups, void* stream) {
  for (problem.index_bits = 1; problem.padded / (S::GROUPED ? 32 : 8) > 1 << problem.index_bits;) ++problem.index_bits;
  const int64_t rows = S::LANES / problem.beam;
  const dim3 grid((unsigned)((problem.rows + rows - 1) / rows), groups);
  LAUNCH(encode<S>, grid, S::THREADS, Block<S>::bytes(problem.stages, problem.beam), stream, problem);
  return nullptr;
}

// The shape for a width; where there are too few vectors to keep all multiprocessors busy, or too little shared memory,
// the one that shares out the codes instead.
template <class Many, class Few>
const char* choose(const Problem& problem, int groups, const Device& device, void* stream) {
  const int64_t blocks = groups * ((problem.rows * problem.beam + Many::LANES - 1) / Many::LANES);
  if (blocks >= device.processors && fits<Many>(problem, device)) return launch<Many>(problem, groups, stream);
  if (fits<Few>(problem, device)) return launch<Few>(problem, groups, stream);
  return "the GPU has too little shared memory for vectors of this width";
}

int steps(int dim) {  // of the matrix units, as there are kernels for; 0 where there is none
  for (const int count : {1, 2, 3, 5, 9, 17, 33})
    if (dim + EXTRA <= count * 16) return count;
  return 0;
}

int padded(int size) { return (size + CODE_ALIGN - 1) / CODE_ALIGN * CODE_ALIGN; }

}  // namespace

// Bytes of workspace that `codec_rvq_encode_cuda` needs, 0 where there is no kernel for the problem.
extern "C" int64_t codec_rvq_workspace(int groups, int dim, int stages, int size, int beam) {
  if (steps(dim) == 0 || stages > 32 || size > 65536 || beam > MAX_BEAM || (int64_t)groups * stages > 65535) return 0;
  return (int64_t)groups * stages * ((int64_t)padded(size) * steps(dim) * 32 + 4);
}

// All pointers are of the device `device`: x (groups, rows, dim), books (groups, stages, size, dim), codes (groups, rows,
// stages), contiguous, and nothing is empty; work is queued on the stream. Returns null or what went wrong.
extern "C" const char* codec_rvq_encode_cuda(const float* x, const float* books, int64_t* codes, void* workspace,
                                             int groups, int64_t rows, int dim, int stages, int size, int beam, int index,
                                             void* stream) {
  Device device;
  if (const char* error = use_device(index, device)) return error;
  const int all = groups * stages, width = steps(dim) * 16;
  Problem p{x, books, (const uint16_t*)workspace, nullptr, codes, rows, dim, stages, size, padded(size), beam, 0};
  if (beam == 1 && device.major >= 9 && groups * rows * CLUSTER <= device.processors) {
    LAUNCH_CLUSTERS(CLUSTER, frame, dim3((unsigned)rows * CLUSTER, groups), FRAME_THREADS, frame_bytes(dim), stream, p);
    return nullptr;
  }
  float* const longest = (float*)((uint16_t*)workspace + (int64_t)all * p.padded * width);
  p.longest = longest;
  CHECK(cudaMemsetAsync(longest, 0, all * sizeof(float), (cudaStream_t)stream));
  LAUNCH(prepare, dim3(p.padded / 8, all), 256, 0, stream, books, (uint16_t*)workspace, longest, dim, size, p.padded, width);
  switch (steps(dim)) {  // vectors up to 11, 27, 43, 75, 139, 267 and 523 wide
    case 1: return choose<Shape<1, 2, 4, 1, 128, 3>, Shape<1, 1, 1, 4, 128, 1>>(p, groups, device, stream);
    case 2: return choose<Shape<2, 2, 4, 1, 128, 3>, Shape<2, 1, 1, 4, 128, 1>>(p, groups, device, stream);
    case 3: return choose<Shape<3, 2, 4, 1, 64, 3>, Shape<3, 1, 1, 4, 128, 1>>(p, groups, device, stream);
    case 5: return choose<Shape<5, 2, 4, 1, 32, 3>, Shape<5, 1, 1, 8, 128, 1>>(p, groups, device, stream);
    case 9: return choose<Shape<9, 2, 4, 1, 32, 2>, Shape<9, 1, 1, 8, 128, 1>>(p, groups, device, stream);
    case 17: return choose<Shape<17, 1, 4, 1, 32, 2>, Shape<17, 1, 1, 4, 64, 1>>(p, groups, device, stream);
    case 33: return choose<Shape<33, 1, 2, 2, 32, 1>, Shape<33, 1, 1, 2, 32, 1>>(p, groups, device, stream);
  }
  return "no kernel for this width";
}

// quantized (groups, rows, dim), counts (groups, stages, size) and sums (groups, stages, size, dim), the last two zeros.
extern "C" const char* codec_rvq_accumulate(const float* x, const float* books, const int64_t* codes, float* quantized,
                                            float* counts, float* sums, int groups, int64_t rows, int dim, int stages,
                                            int size, int index, void* stream) {
  Device device;
  if (const char* error = use_device(index, device)) return error;
  const int64_t blocks = (rows + 7) / 8, most = device.processors * 8;
  LAUNCH(accumulate, dim3((unsigned)(blocks < most ? blocks : most), groups), 256, 0, stream, x, books, codes, quantized,
         counts, sums, rows, dim, stages, size);
  return nullptr;
}
