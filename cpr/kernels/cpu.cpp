// One pass over memory for a whole AdamCPR step (paper, Algorithm 1, evaluated at theta_t):
//
//     theta_{t+1} = pull(theta_t) + Opt(g_t)       pull(x) = scale x - rate clamp(x - center, -limit, limit)
//
// The pull's four numbers per matrix come from the multiplier, which is known when the step starts, because the sum that
// R(theta_{t+1}) is made of is taken while theta_{t+1} is written. cpr/measures.py has the pull and the sum of every measure.
//
// Order of summation, which fixes the result to the last bit: 4 accumulators of vector lanes in a block of 1,024 elements,
// reduced in float32; blocks of a chunk, then chunks of a matrix, one after the other in float64. Threads take whole
// chunks, so their number changes nothing.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
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

void update_vector(float* p, const float* g, float* m, float* v, float* largest, int64_t n, const Adam& adam, Rate rate, const Pull& pull) {
  const Vec gradient = Vec::loadu(g, n) * Vec(adam.sign);
  const Vec first = at::vec::fmadd(gradient - Vec::loadu(m, n), Vec(adam.one_minus_beta1), Vec::loadu(m, n));
  const Vec second = at::vec::fmadd(gradient * gradient, Vec(adam.one_minus_beta2), Vec::loadu(v, n) * Vec(adam.beta2));
  first.store(m, n);
  second.store(v, n);
  Vec scale = second;
  if (largest) {
    scale = at::vec::maximum(Vec::loadu(largest, n), second);
    scale.store(largest, n);
  }
  const Vec denominator = at::vec::fmadd(scale.sqrt(), Vec(rate.inverse_sqrt_correction2), Vec(adam.eps));
  Vec x = Vec::loadu(p, n);
  Vec pulled = x * Vec(pull.scale);
  if (pull.rate != 0) {
    pulled = pulled - Vec(pull.rate) * clamp(x - Vec(pull.center), Vec(pull.limit));
  }
  (pulled - Vec(rate.step_size) * first / denominator).store(p, n);
}

void update_block(float* p, const float* g, float* m, float* v, float* largest, int64_t n, const Adam& adam, Rate rate, const Pull& pull) {
  int64_t i = 0;
  for (; i + Vec::size() <= n; i += Vec::size()) {
    update_vector(p + i, g + i, m + i, v + i, largest ? largest + i : nullptr, Vec::size(), adam, rate, pull);
  }
  if (i < n) {
    update_vector(p + i, g + i, m + i, v + i, largest ? largest + i : nullptr, n - i, adam, rate, pull);
  }
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

float total(const Vec* lanes) {
  const Vec sum = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
  return at::vec::vec_reduce_all<float>([](Vec a, Vec b) { return a + b; }, sum);
}

// Adds the block's sums to total[0] and, for the standard deviation, total[1].
template <Sum kind>
void add_block(const float* p, int64_t n, double* sums) {
  Vec lanes[4] = {Vec(0), Vec(0), Vec(0), Vec(0)}, values[4] = {Vec(0), Vec(0), Vec(0), Vec(0)};
  for (int64_t i = 0, turn = 0; i < n; i += Vec::size(), turn = (turn + 1) % 4) {
    const Vec x = Vec::loadu(p + i, std::min<int64_t>(Vec::size(), n - i));  // lanes behind the end are zero
    lanes[turn] = lanes[turn] + term<kind>(x);
    if constexpr (kind == kSquaresAndValues) {
      values[turn] = values[turn] + x;
    }
  }
  sums[0] += total(lanes);
  if constexpr (kind == kSquaresAndValues) {
    sums[1] += total(values);
  }
}

void add_block(Sum kind, const float* p, int64_t n, double* sums) {
  switch (kind) {
    case kNone: return;
    case kSquares: return add_block<kSquares>(p, n, sums);
    case kAbsolutes: return add_block<kAbsolutes>(p, n, sums);
    case kHuber: return add_block<kHuber>(p, n, sums);
    case kSquaresAndValues: return add_block<kSquaresAndValues>(p, n, sums);
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

  // Calls work(tensor, first element, end, chunk) for every chunk, in parallel.
  template <typename Work>
  void run(TensorList tensors, const Work& work) const {
    at::parallel_for(0, first.back(), 1, [&](int64_t begin, int64_t end) {
      size_t tensor = std::upper_bound(first.begin(), first.end(), begin) - first.begin() - 1;
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        while (chunk >= first[tensor + 1]) ++tensor;
        const int64_t start = (chunk - first[tensor]) * kChunk;
        work(tensor, start, std::min<int64_t>(start + kChunk, tensors[tensor].numel()), chunk);
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

template <typename T>
void sums_of(TensorList params, Sum kind, double* out) {
  const Chunks chunks(params);
  std::vector<double> parts(2 * chunks.first.back(), 0);
  chunks.run(params, [&](size_t i, int64_t begin, int64_t end, int64_t chunk) {
    T* data = params[i].data_ptr<T>();
    for (int64_t at = begin; at < end; at += kBlock) {
      Block<T> p(data + at, std::min(kBlock, end - at));
      add_block(kind, p.data(), std::min(kBlock, end - at), &parts[2 * chunk]);
    }
  });
  chunks.reduce(parts, out);
}

// Elements are addressed by their place in memory, which must be the same in a parameter and its moments.
void check_layout(const Tensor& param, const Tensor& moment) {
  TORCH_CHECK(param.is_non_overlapping_and_dense() && moment.strides() == param.strides() && moment.scalar_type() == param.scalar_type(),
              "cpr: a parameter's memory layout or dtype was changed after the first step; make the optimizer anew");
}

// A tensor with the memory layout of `like`: itself, or a copy.
Tensor laid_out_as(const Tensor& tensor, const Tensor& like) {
  if (tensor.strides() == like.strides() && tensor.scalar_type() == like.scalar_type()) return tensor;
  return at::empty_like(like).copy_(tensor);
}

template <typename T>
void step_of(TensorList params, const std::vector<Tensor>& grads, TensorList exp_avgs, TensorList exp_avg_sqs, TensorList max_exp_avg_sqs,
             const std::vector<Rate>& rates, const Adam& adam, const std::vector<Pull>& pulls, Sum kind, double* out) {
  const Chunks chunks(params);
  std::vector<double> parts(2 * chunks.first.back(), 0);
  chunks.run(params, [&](size_t i, int64_t begin, int64_t end, int64_t chunk) {
    T *p = params[i].data_ptr<T>(), *g = grads[i].data_ptr<T>(), *m = exp_avgs[i].data_ptr<T>(), *v = exp_avg_sqs[i].data_ptr<T>();
    T* largest = max_exp_avg_sqs.empty() ? nullptr : max_exp_avg_sqs[i].data_ptr<T>();
    for (int64_t at = begin; at < end; at += kBlock) {
      const int64_t n = std::min(kBlock, end - at);
      Block<T> theta(p + at, n), gradient(g + at, n), first(m + at, n), second(v + at, n), most(largest ? largest + at : nullptr, n);
      update_block(theta.data(), gradient.data(), first.data(), second.data(), most.data(), n, adam, rates[i], pulls[i]);
      theta.store();
      first.store();
      second.store();
      most.store();
      add_block(kind, theta.data(), n, &parts[2 * chunk]);
    }
  });
  if (kind != kNone) chunks.reduce(parts, out);
}

void sums(TensorList params, Tensor out, int64_t kind) {
  if (params.empty()) return;
  double* target = out.data_ptr<double>();
  if (params[0].scalar_type() == at::kFloat) sums_of<float>(params, Sum(kind), target);
  else sums_of<at::BFloat16>(params, Sum(kind), target);
}

void step(TensorList params, TensorList gradients, TensorList exp_avgs, TensorList exp_avg_sqs, TensorList max_exp_avg_sqs, Tensor steps,
          const std::optional<Tensor>& pull, const std::optional<Tensor>& out, int64_t kind, double lr, double beta1, double beta2, double eps,
          bool maximize) {
  const size_t count = params.size();
  if (count == 0) return;
  std::vector<Tensor> grads;
  std::vector<Rate> rates;
  std::vector<Pull> pulls(count);
  grads.reserve(count);
  rates.reserve(count);
  float* steps_taken = steps.data_ptr<float>();
  for (size_t i = 0; i < count; ++i) {
    check_layout(params[i], exp_avgs[i]);
    check_layout(params[i], exp_avg_sqs[i]);
    if (!max_exp_avg_sqs.empty()) check_layout(params[i], max_exp_avg_sqs[i]);
    grads.push_back(laid_out_as(gradients[i], params[i]));
    const double t = steps_taken[i] += 1;
    rates.push_back({float(lr / (1 - std::pow(beta1, t))), float(1 / std::sqrt(1 - std::pow(beta2, t)))});
    if (pull) {  // [4, count]: scale, rate, center, limit
      const float* numbers = pull->data_ptr<float>() + i;
      pulls[i] = {numbers[0], numbers[count], numbers[2 * count], numbers[3 * count]};
    }
  }
  const Adam adam{float(1 - beta1), float(beta2), float(1 - beta2), float(eps), maximize ? -1.f : 1.f};
  double* target = out ? out->data_ptr<double>() : nullptr;
  const Sum sum = out ? Sum(kind) : kNone;
  if (params[0].scalar_type() == at::kFloat) {
    step_of<float>(params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, rates, adam, pulls, sum, target);
  } else {
    step_of<at::BFloat16>(params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, rates, adam, pulls, sum, target);
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
