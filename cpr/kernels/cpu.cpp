// One pass over memory for a whole AdamCPR step (paper, Algorithm 1, evaluated at theta_t):
//
//     theta_{t+1} = pull(theta_t) + Opt(g_t)       pull(x) = scale x - rate clamp(x - center, -limit, limit)
//
// The pull's four numbers per matrix come from the multiplier, which is known when the step starts, because the sum that
// R(theta_{t+1}) is made of is taken while theta_{t+1} is written. cpr/measures.py has the pull and the sum of every measure.
//
// Order of summation, which fixes the result to the last bit: 4 accumulators of vector lanes in a block of 1,024 elements,
// reduced in float32; blocks of a chunk, then chunks of a matrix, one after the other in float64. Threads take whole
// chunks, so neither their number nor who takes which changes anything.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <type_traits>
#include <vector>

namespace {

using Vec = at::vec::Vectorized<float>;
using at::Tensor;
using at::TensorList;

constexpr int64_t kBlock = 1024, kChunk = 16 * kBlock;
enum Sum : int64_t { kNone, kSquares, kAbsolutes, kHuber, kSquaresAndValues };

struct Pull {
  float scale = 1, rate = 0, center = 0, limit = 0;
};

struct Adam {
  // 1 - beta is taken in float64: of 0.999 float32 would leave 4 digits.
  float one_minus_beta1, beta2, one_minus_beta2, eps, sign;  // sign: -1 to maximize
};

// Adam's numbers that depend on the matrix's own count of steps.
struct Rate {
  float step_size, inverse_sqrt_correction2;
};

Vec clamp(Vec x, Vec limit) {
  return at::vec::minimum(at::vec::maximum(x, limit.neg()), limit);
}

// The numbers of a matrix's step, each in all lanes of a register.
struct Numbers {
  Vec sign, one_minus_beta1, beta2, one_minus_beta2, inverse_sqrt_correction2, eps, step_size, scale, rate, center, limit;

  Numbers(const Adam& adam, Rate step, const Pull& pull)
      : sign(adam.sign), one_minus_beta1(adam.one_minus_beta1), beta2(adam.beta2), one_minus_beta2(adam.one_minus_beta2),
        inverse_sqrt_correction2(step.inverse_sqrt_correction2), eps(adam.eps), step_size(step.step_size), scale(pull.scale), rate(pull.rate),
        center(pull.center), limit(pull.limit) {}
};

// Adam's step and the pull for n <= Vec::size() elements; returns the new parameters. What a step may have beside (AMSGrad's largest
// squares; a pull that is not a scaling alone) is said to the compiler: asked for every vector, it costs 3 % of the step. In line, so
// that the numbers stay in registers.
template <bool has_largest, bool has_rate>
C10_ALWAYS_INLINE Vec update_vector(float* p, const float* g, float* m, float* v, float* largest, int64_t n, const Numbers& use) {
  const Vec x = Vec::loadu(p, n), gradient = Vec::loadu(g, n), old_first = Vec::loadu(m, n), old_second = Vec::loadu(v, n);
  const Vec first = at::vec::fmadd(at::vec::fmsub(gradient, use.sign, old_first), use.one_minus_beta1, old_first);
  const Vec second = at::vec::fmadd(gradient * gradient, use.one_minus_beta2, old_second * use.beta2);
  Vec square = second;
  if constexpr (has_largest) {
    square = at::vec::maximum(Vec::loadu(largest, n), second);
    square.store(largest, n);
  }
  const Vec denominator = at::vec::fmadd(square.sqrt(), use.inverse_sqrt_correction2, use.eps);
  Vec decrease = use.step_size * first / denominator;
  if constexpr (has_rate) {
    decrease = at::vec::fmadd(use.rate, clamp(x - use.center, use.limit), decrease);
  }
  const Vec updated = at::vec::fmsub(x, use.scale, decrease);  // said, not left to the compiler: it fixes the last bit
  first.store(m, n);
  second.store(v, n);
  updated.store(p, n);
  return updated;
}

template <Sum kind>
Vec term(Vec x) {
  if constexpr (kind == kAbsolutes) {
    return x.abs();
  } else if constexpr (kind == kHuber) {  // x^2 / 2 inside the unit interval, |x| - 1/2 outside
    const Vec size = x.abs(), inner = at::vec::minimum(size, Vec(1));
    return at::vec::fmadd(inner * inner, Vec(0.5), size - inner);
  } else {
    return x * x;
  }
}

C10_ALWAYS_INLINE void rotate(Vec* lanes, Vec last) {
  for (int i = 0; i < 3; ++i) lanes[i] = lanes[i + 1];
  lanes[3] = last;
}

float total(const Vec* lanes) {
  const Vec sum = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
  return at::vec::vec_reduce_all<float>([](Vec a, Vec b) { return a + b; }, sum);
}

// Adds the n elements that `whole(first element)` and, at the end, `part(first element, number of elements)` return as vectors to
// sums[0] and, for the standard deviation, their sum to sums[1]. Four accumulators, which change places after every vector: unrolled
// instead, the step was measured 1 to 3 % slower.
template <Sum kind, typename Whole, typename Part>
C10_ALWAYS_INLINE void sum_vectors(int64_t n, double* sums, const Whole& whole, const Part& part) {
  constexpr int64_t size = Vec::size();
  Vec lanes[4] = {Vec(0), Vec(0), Vec(0), Vec(0)}, values[4] = {Vec(0), Vec(0), Vec(0), Vec(0)};
  const auto add = [&](Vec x) {
    if constexpr (kind != kNone) rotate(lanes, lanes[0] + term<kind>(x));
    if constexpr (kind == kSquaresAndValues) rotate(values, values[0] + x);
  };
  int64_t i = 0;
#pragma GCC unroll 1
  for (; i + size <= n; i += size) add(whole(i));
  if (i < n) {
    add(part(i, n - i));
    i += size;
  }
  for (; i % (4 * size) != 0; i += size) add(Vec(0));  // until all are in their places
  if constexpr (kind != kNone) sums[0] += total(lanes);
  if constexpr (kind == kSquaresAndValues) sums[1] += total(values);
}

template <Sum kind, bool has_largest, bool has_rate>
C10_ALWAYS_INLINE void update_block(float* p, const float* g, float* m, float* v, float* largest, int64_t n, const Numbers& use, double* sums) {
  const Numbers own = use;  // whose address nobody has: what is stored cannot change it, and it stays in registers
  const auto update = [=](int64_t i, int64_t count) C10_ALWAYS_INLINE_ATTRIBUTE {
    return update_vector<has_largest, has_rate>(p + i, g + i, m + i, v + i, has_largest ? largest + i : nullptr, count, own);
  };
  const auto whole = [=](int64_t i) C10_ALWAYS_INLINE_ATTRIBUTE { return update(i, Vec::size()); };
  const auto part = [=](int64_t i, int64_t count) {
    update(i, count);
    return Vec::loadu(p + i, count);  // with zeros behind its elements
  };
  sum_vectors<kind>(n, sums, whole, part);
}

template <Sum kind>
void add_block(const float* p, int64_t n, double* sums) {
  sum_vectors<kind>(n, sums, [&](int64_t i) { return Vec::loadu(p + i); }, [&](int64_t i, int64_t count) { return Vec::loadu(p + i, count); });
}

// Calls with_kind(std::integral_constant<Sum, kind>).
template <typename WithKind>
void dispatch(Sum kind, const WithKind& with_kind) {
  switch (kind) {
    case kNone: return with_kind(std::integral_constant<Sum, kNone>());
    case kSquares: return with_kind(std::integral_constant<Sum, kSquares>());
    case kAbsolutes: return with_kind(std::integral_constant<Sum, kAbsolutes>());
    case kHuber: return with_kind(std::integral_constant<Sum, kHuber>());
    case kSquaresAndValues: return with_kind(std::integral_constant<Sum, kSquaresAndValues>());
  }
}

// A block of a tensor as float32: the memory itself, or for bfloat16 a copy that `store` rounds back.
template <typename T>
class Block {
 public:
  Block(T* source, int64_t n) : source_(source), n_(n) {
    if constexpr (!std::is_same_v<T, float>) {
      if (source) at::vec::convert(source, copy_, n);
    }
  }
  float* data() {
    if constexpr (std::is_same_v<T, float>) return source_;
    else return source_ ? copy_ : nullptr;
  }
  // Afterwards data() holds what the memory holds.
  void store() {
    if constexpr (!std::is_same_v<T, float>) {
      if (!source_) return;
      at::vec::convert(copy_, source_, n_);
      at::vec::convert(source_, copy_, n_);
    }
  }

 private:
  T* source_;
  int64_t n_;
  alignas(64) float copy_[std::is_same_v<T, float> ? 1 : kBlock];
};

// Chunks of all tensors in one row, so that threads share the work evenly whatever the sizes are.
struct Chunks {
  std::vector<int64_t> first;  // first[i]: number of the first chunk of tensor i; first.back(): number of chunks
  explicit Chunks(TensorList tensors) : first(tensors.size() + 1, 0) {
    for (size_t i = 0; i < tensors.size(); ++i) first[i + 1] = first[i] + (tensors[i].numel() + kChunk - 1) / kChunk;
  }

  // Calls work(tensor, first element, end, chunk) for every chunk, in parallel. A thread takes the next share when it is done with its
  // last, so that none waits for one whose processor is slower or has other work: 2 to 3 % faster than halves of equal size.
  template <typename Work>
  void run(TensorList tensors, const Work& work) const {
    const int64_t total = first.back(), threads = std::min<int64_t>(at::get_num_threads(), total);
    const int64_t share = std::clamp<int64_t>(total / (8 * std::max<int64_t>(threads, 1)), 1, 16);
    std::atomic<int64_t> next = 0;
    at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
      for (int64_t begin; (begin = next.fetch_add(share)) < total;) {
        const int64_t end = std::min(begin + share, total);
        size_t tensor = std::upper_bound(first.begin(), first.end(), begin) - first.begin() - 1;
        for (int64_t chunk = begin; chunk < end; ++chunk) {
          while (chunk >= first[tensor + 1]) ++tensor;
          const int64_t start = (chunk - first[tensor]) * kChunk;
          work(tensor, start, std::min<int64_t>(start + kChunk, tensors[tensor].numel()), chunk);
        }
      }
    });
  }

  // Adds the chunks' sums up, in their order, into `out` (float64 [tensors, 2]).
  void reduce(const std::vector<double>& parts, double* out) const {
    for (size_t i = 0; i + 1 < first.size(); ++i) {
      out[2 * i] = out[2 * i + 1] = 0;
      for (int64_t chunk = first[i]; chunk < first[i + 1]; ++chunk) {
        out[2 * i] += parts[2 * chunk];
        out[2 * i + 1] += parts[2 * chunk + 1];
      }
    }
  }
};

template <typename T, Sum kind>
void sums_of(TensorList params, double* out) {
  const Chunks chunks(params);
  std::vector<double> parts(2 * chunks.first.back(), 0);
  chunks.run(params, [&](size_t i, int64_t begin, int64_t end, int64_t chunk) {
    T* data = params[i].data_ptr<T>();
    for (int64_t at = begin; at < end; at += kBlock) {
      Block<T> p(data + at, std::min(kBlock, end - at));
      add_block<kind>(p.data(), std::min(kBlock, end - at), &parts[2 * chunk]);
    }
  });
  chunks.reduce(parts, out);
}

// Elements are addressed by their place in memory, which must be the same in a parameter and its moments.
void check_layout(const Tensor& param, const Tensor& moment) {
  TORCH_CHECK(param.is_non_overlapping_and_dense() && moment.strides() == param.strides() && moment.scalar_type() == param.scalar_type(),
              "cpr: a parameter's memory layout or dtype was changed after the first step; make the optimizer anew");
}

bool laid_out_alike(const Tensor& one, const Tensor& other) {
  return one.strides() == other.strides() && one.scalar_type() == other.scalar_type();
}

template <typename T, Sum kind, bool has_largest, bool has_rate>
void update_chunk(T* p, T* g, T* m, T* v, T* largest, int64_t count, const Numbers& use, double* sums) {
  for (int64_t at = 0; at < count; at += kBlock) {
    const int64_t n = std::min(kBlock, count - at);
    Block<T> theta(p + at, n), gradient(g + at, n), first(m + at, n), second(v + at, n), most(has_largest ? largest + at : nullptr, n);
    constexpr Sum at_once = std::is_same_v<T, float> ? kind : kNone;  // the sum is of what bfloat16 has rounded
    update_block<at_once, has_largest, has_rate>(theta.data(), gradient.data(), first.data(), second.data(), most.data(), n, use, sums);
    theta.store();
    first.store();
    second.store();
    most.store();
    if constexpr (at_once != kind) add_block<kind>(theta.data(), n, sums);
  }
}

template <typename T, Sum kind>
void step_of(TensorList params, TensorList grads, TensorList exp_avgs, TensorList exp_avg_sqs, TensorList max_exp_avg_sqs,
             const Rate* rates, const Adam& adam, const Pull* pulls, double* out) {
  const Chunks chunks(params);
  std::vector<double> parts(2 * chunks.first.back(), 0);
  chunks.run(params, [&](size_t i, int64_t begin, int64_t end, int64_t chunk) {
    T *p = params[i].data_ptr<T>(), *g = grads[i].data_ptr<T>(), *m = exp_avgs[i].data_ptr<T>(), *v = exp_avg_sqs[i].data_ptr<T>();
    T* largest = max_exp_avg_sqs.empty() ? nullptr : max_exp_avg_sqs[i].data_ptr<T>();
    const auto update = pulls[i].rate != 0 ? (largest ? update_chunk<T, kind, true, true> : update_chunk<T, kind, false, true>)
                                           : (largest ? update_chunk<T, kind, true, false> : update_chunk<T, kind, false, false>);
    update(p + begin, g + begin, m + begin, v + begin, largest ? largest + begin : nullptr, end - begin, Numbers(adam, rates[i], pulls[i]),
           &parts[2 * chunk]);
  });
  if (kind != kNone) chunks.reduce(parts, out);
}

void sums(TensorList params, Tensor out, int64_t kind) {
  if (params.empty()) return;
  double* target = out.data_ptr<double>();
  dispatch(Sum(kind), [&](auto sum) {
    if (params[0].scalar_type() == at::kFloat) sums_of<float, sum()>(params, target);
    else sums_of<at::BFloat16, sum()>(params, target);
  });
}

void step(TensorList params, TensorList gradients, TensorList exp_avgs, TensorList exp_avg_sqs, TensorList max_exp_avg_sqs, Tensor steps,
          const std::optional<Tensor>& pull, const std::optional<Tensor>& out, int64_t kind, double lr, double beta1, double beta2, double eps,
          bool maximize) {
  const size_t count = params.size();
  if (count == 0) return;
  std::vector<Rate> rates;
  std::vector<Pull> pulls(count);
  rates.reserve(count);
  float* steps_taken = steps.data_ptr<float>();
  int64_t to_copy = 0;  // elements of the largest gradient that has another layout than its parameter
  for (size_t i = 0; i < count; ++i) {
    check_layout(params[i], exp_avgs[i]);
    check_layout(params[i], exp_avg_sqs[i]);
    if (!max_exp_avg_sqs.empty()) check_layout(params[i], max_exp_avg_sqs[i]);
    if (!laid_out_alike(gradients[i], params[i])) to_copy = std::max(to_copy, params[i].numel());
    const double t = steps_taken[i] += 1;
    rates.push_back({float(lr / (1 - std::pow(beta1, t))), float(1 / std::sqrt(1 - std::pow(beta2, t)))});
    if (pull) {  // [4, count]: scale, rate, center, limit
      const float* numbers = pull->data_ptr<float>() + i;
      pulls[i] = {numbers[0], numbers[count], numbers[2 * count], numbers[3 * count]};
    }
  }
  const Adam adam{float(1 - beta1), float(beta2), float(1 - beta2), float(eps), maximize ? -1.f : 1.f};
  const auto update = [&](size_t begin, size_t n, TensorList grads) {
    const auto part = [&](TensorList tensors) { return tensors.empty() ? tensors : tensors.slice(begin, n); };
    double* target = out ? out->data_ptr<double>() + 2 * begin : nullptr;
    dispatch(out ? Sum(kind) : kNone, [&](auto sum) {
      const auto of = params[0].scalar_type() == at::kFloat ? step_of<float, sum()> : step_of<at::BFloat16, sum()>;
      of(part(params), grads, part(exp_avgs), part(exp_avg_sqs), part(max_exp_avg_sqs), &rates[begin], adam, &pulls[begin], target);
    });
  };
  // In one go, up to a gradient that has another layout: it is copied and goes alone, so that one copy's memory is enough for all.
  const Tensor copy = at::empty({to_copy}, params[0].options());
  for (size_t begin = 0, end = 0; begin < count; begin = end) {
    while (end < count && laid_out_alike(gradients[end], params[end])) ++end;
    if (end > begin) {
      update(begin, end - begin, gradients.slice(begin, end - begin));
    } else {
      update(begin, 1, copy.as_strided(params[begin].sizes(), params[begin].strides()).copy_(gradients[begin]));
      ++end;
    }
  }
}

}  // namespace

TORCH_LIBRARY(cpr, library) {
  library.def("sums_(Tensor[] params, Tensor(a!) out, int kind) -> ()");
  library.def(
      "step_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] max_exp_avg_sqs, "
      "Tensor(e!) steps, Tensor? pull, Tensor(f!)? out, int kind, float lr, float beta1, float beta2, float eps, bool maximize) -> ()");
}

TORCH_LIBRARY_IMPL(cpr, CPU, library) {
  library.impl("sums_", &sums);
  library.impl("step_", &step);
}
