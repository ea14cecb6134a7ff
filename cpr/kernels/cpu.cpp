// One pass over memory for a whole AdamCPR step (paper, Algorithm 1, evaluated at theta_t):
//
//     theta_{t+1} = pull(theta_t) + Opt(g_t)       pull(x) = scale x - rate clamp(x - center, -limit, limit)
//
// The pull's four numbers per matrix come from the multiplier. It is known when the step starts,
// because the sum that R(theta_{t+1}) is made of is taken while theta_{t+1} is written.
// cpr/measures.py has the pull and the sum of every measure.
//
// The order of summation fixes the result to the last bit. A block of 1,024 elements has 4
// accumulators of vector lanes, reduced in float32. Blocks of a chunk, then chunks of a matrix, are
// added one after the other in float64. Threads take whole chunks, so neither the number of threads
// nor the assignment of chunks changes anything.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <optional>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using Vec = at::vec::Vectorized<float>;
using at::Tensor;
using at::TensorList;

constexpr int64_t kBlock = 1024, kChunk = 16 * kBlock;
enum Sum : int64_t { kNone, kSquares, kAbsolutes, kHuber, kSquaresAndValues };

struct Pull {
  float scale = 1, rate = 0, center = 0, limit = 0;
  bool changes_nothing() const { return scale == 1 && (rate == 0 || limit == 0); }
};

struct Adam {
  // 1 - beta is taken in float64, since float32 would keep 4 digits of 1 - 0.999.
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

// Does Adam's step and the pull for n <= Vec::size() elements, and returns the new parameters. A step
// may have AMSGrad's largest squares, and a pull that does more than scale. Template parameters tell
// the compiler which: a test for every vector costs 3 % of the step. Inlined, so that the numbers stay
// in registers.
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
  // Written as fmsub, not left to the compiler, because it fixes the last bit.
  const Vec updated = at::vec::fmsub(x, use.scale, decrease);
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

// Adds n elements to sums[0] and, for the standard deviation, their sum to sums[1].
// `whole(first element)` returns a vector of them, and `part(first element, number of elements)` the
// last, partial vector. Four accumulators change places after every vector. Unrolling instead was
// measured 1 to 3 % slower.
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
  for (; i % (4 * size) != 0; i += size) add(Vec(0));  // until every accumulator is back in its place
  if constexpr (kind != kNone) sums[0] += total(lanes);
  if constexpr (kind == kSquaresAndValues) sums[1] += total(values);
}

template <Sum kind, bool has_largest, bool has_rate>
C10_ALWAYS_INLINE void update_block(float* p, const float* g, float* m, float* v, float* largest, int64_t n, const Numbers& use, double* sums) {
  // Nothing has the address of this copy, so no store can change it, and it stays in registers.
  const Numbers own = use;
  const auto update = [=](int64_t i, int64_t count) C10_ALWAYS_INLINE_ATTRIBUTE {
    return update_vector<has_largest, has_rate>(p + i, g + i, m + i, v + i, has_largest ? largest + i : nullptr, count, own);
  };
  const auto whole = [=](int64_t i) C10_ALWAYS_INLINE_ATTRIBUTE { return update(i, Vec::size()); };
  const auto part = [=](int64_t i, int64_t count) {
    update(i, count);
    return Vec::loadu(p + i, count);  // padded with zeros
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

// A block of a tensor as float32: its own memory, or for bfloat16 a copy that `store` rounds back.
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

// The chunks of all tensors in one row, so that threads share the work evenly for any sizes.
struct Chunks {
  // first[i] is the index of the first chunk of tensor i, first.back() the number of chunks.
  std::vector<int64_t> first;
  explicit Chunks(TensorList tensors) : first(tensors.size() + 1, 0) {
    for (size_t i = 0; i < tensors.size(); ++i) first[i + 1] = first[i] + (tensors[i].numel() + kChunk - 1) / kChunk;
  }

  size_t tensor_of(int64_t chunk) const { return std::upper_bound(first.begin(), first.end(), chunk) - first.begin() - 1; }

  // Calls work(tensor, first element, end, chunk) for every chunk, in parallel. A thread takes the
  // next share when it has finished its last, so no thread waits for a slower or busier processor.
  // This is 2 to 3 % faster than halves of equal size.
  template <typename Work>
  void run(TensorList tensors, const Work& work) const {
    const int64_t total = first.back(), threads = std::min<int64_t>(at::get_num_threads(), total);
    const int64_t share = std::clamp<int64_t>(total / (8 * std::max<int64_t>(threads, 1)), 1, 16);
    std::atomic<int64_t> next = 0;
    at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
      for (int64_t begin; (begin = next.fetch_add(share)) < total;) {
        const int64_t end = std::min(begin + share, total);
        size_t tensor = tensor_of(begin);
        for (int64_t chunk = begin; chunk < end; ++chunk) {
          while (chunk >= first[tensor + 1]) ++tensor;
          const int64_t start = (chunk - first[tensor]) * kChunk;
          work(tensor, start, std::min<int64_t>(start + kChunk, tensors[tensor].numel()), chunk);
        }
      }
    });
  }

  // Adds up the sums of a tensor's chunks, in order, into its row of `out` (float64 [tensors, 2]).
  void reduce(size_t i, const std::vector<double>& parts, double* out) const {
    out[2 * i] = out[2 * i + 1] = 0;
    for (int64_t chunk = first[i]; chunk < first[i + 1]; ++chunk) {
      out[2 * i] += parts[2 * chunk];
      out[2 * i + 1] += parts[2 * chunk + 1];
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
  for (size_t i = 0; i < params.size(); ++i) chunks.reduce(i, parts, out);
}

// Elements are addressed by their place in memory, which must be the same in a parameter, its gradient
// and its moments. The stride of a dimension of size 1 doesn't matter.
bool laid_out_alike(const Tensor& one, const Tensor& other) {
  if (one.scalar_type() != other.scalar_type() || one.sizes() != other.sizes()) return false;
  for (int64_t d = 0; d < one.dim(); ++d) {
    if (one.size(d) != 1 && one.stride(d) != other.stride(d)) return false;
  }
  return true;
}

// Returns a number that changes when a shape, a stride, a dtype or a device does.
int64_t layouts(TensorList params) {
  uint64_t mark = 14695981039346656037u;
  const auto mix = [&](uint64_t value) { mark = std::rotl((mark ^ value) * 0x9E3779B97F4A7C15u, 29); };
  for (const Tensor& param : params) {
    mix(uint64_t(param.scalar_type()) << 32 | uint64_t(param.device().type()) << 16 | uint16_t(param.device().index()));
    mix(param.dim());
    for (int64_t d = 0; d < param.dim(); ++d) {
      mix(param.size(d));
      mix(param.stride(d));
    }
  }
  return static_cast<int64_t>(mark);
}

// Returns whether gradients have the shapes of their parameters, and moments their layouts, dtypes and
// devices. Moments are all first ones, then all second ones, and so on.
bool fit(TensorList params, TensorList grads, TensorList moments) {
  const size_t count = params.size();
  for (size_t i = 0; i < count; ++i) {
    if (grads[i].sizes() != params[i].sizes()) return false;
  }
  for (size_t k = 0; k < moments.size(); ++k) {
    const Tensor& param = params[k % count];
    if (moments[k].device() != param.device() || !laid_out_alike(param, moments[k])) return false;
  }
  return true;
}

// Repeats what the optimizer has checked already, before any memory is touched.
void check_parameter(const Tensor& param, at::ScalarType dtype) {
  TORCH_CHECK(param.is_cpu() && param.scalar_type() == dtype && param.is_non_overlapping_and_dense(),
              "cpr: a parameter has gaps in its memory, or another device or dtype than the others");
}

void check_moment(const Tensor& param, const Tensor& moment) {
  TORCH_CHECK(moment.is_cpu() && laid_out_alike(param, moment), "cpr: a moment of shape ", moment.sizes(), " does not fit its parameter of shape ",
              param.sizes());
}

// Returns a number that changes when a parameter does. It is made from the parameter's version, which
// counts changes in place, its address, and some of its elements, since `parameter.data` changes it
// without a version. It is never 0, which means "not known".
int64_t mark_of(const Tensor& param) {
  constexpr int64_t kSamples = 16;
  uint64_t mark = 14695981039346656037u;
  const auto mix = [&](uint64_t value) { mark = std::rotl((mark ^ value) * 0x9E3779B97F4A7C15u, 29); };
  const int64_t n = param.numel(), width = param.element_size();
  const char* data = static_cast<const char*>(param.const_data_ptr());
  mix(reinterpret_cast<uintptr_t>(data));
  mix(param.is_inference() ? 0 : param._version());
  mix(n);
  for (int64_t k = 0; k < std::min(n, kSamples); ++k) {
    uint32_t bits = 0;
    std::memcpy(&bits, data + (n <= kSamples ? k : (n - 1) * k / (kSamples - 1)) * width, width);
    mix(bits);
  }
  return static_cast<int64_t>(mark | 1);
}

template <typename T, Sum kind, bool has_largest, bool has_rate>
void update_chunk(T* p, T* g, T* m, T* v, T* largest, int64_t count, const Numbers& use, double* sums) {
  for (int64_t at = 0; at < count; at += kBlock) {
    const int64_t n = std::min(kBlock, count - at);
    Block<T> theta(p + at, n), gradient(g + at, n), first(m + at, n), second(v + at, n), most(has_largest ? largest + at : nullptr, n);
    // bfloat16 sums are of the rounded values, so they are taken after the store.
    constexpr Sum at_once = std::is_same_v<T, float> ? kind : kNone;
    update_block<at_once, has_largest, has_rate>(theta.data(), gradient.data(), first.data(), second.data(), most.data(), n, use, sums);
    theta.store();
    first.store();
    second.store();
    most.store();
    if constexpr (at_once != kind) add_block<kind>(theta.data(), n, sums);
  }
}

// What Adam's step reads and writes, one tensor per parameter.
struct Lists {
  TensorList params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs;

  size_t size() const { return params.size(); }

  Lists slice(size_t begin, size_t n) const {
    const auto some = [&](TensorList tensors) { return tensors.empty() ? tensors : tensors.slice(begin, n); };
    return {some(params), some(grads), some(exp_avgs), some(exp_avg_sqs), some(max_exp_avg_sqs)};
  }
};

// Updates elements begin to end of tensor i, and adds their sums to sums[0] and sums[1].
template <typename T, Sum kind>
void update_elements(const Lists& lists, size_t i, int64_t begin, int64_t end, const Numbers& use, bool has_rate, double* sums) {
  T *p = lists.params[i].data_ptr<T>(), *g = lists.grads[i].data_ptr<T>(), *m = lists.exp_avgs[i].data_ptr<T>(),
    *v = lists.exp_avg_sqs[i].data_ptr<T>();
  T* largest = lists.max_exp_avg_sqs.empty() ? nullptr : lists.max_exp_avg_sqs[i].data_ptr<T>();
  const auto update = has_rate ? (largest ? update_chunk<T, kind, true, true> : update_chunk<T, kind, false, true>)
                               : (largest ? update_chunk<T, kind, true, false> : update_chunk<T, kind, false, false>);
  update(p + begin, g + begin, m + begin, v + begin, largest ? largest + begin : nullptr, end - begin, use, sums);
}

template <typename T, Sum kind>
void step_of(const Lists& lists, const Rate* rates, const Adam& adam, const Pull* pulls, double* out) {
  const Chunks chunks(lists.params);
  std::vector<double> parts(2 * chunks.first.back(), 0);
  chunks.run(lists.params, [&](size_t i, int64_t begin, int64_t end, int64_t chunk) {
    update_elements<T, kind>(lists, i, begin, end, Numbers(adam, rates[i], pulls[i]), pulls[i].rate != 0, &parts[2 * chunk]);
  });
  for (size_t i = 0; kind != kNone && i < lists.size(); ++i) chunks.reduce(i, parts, out);
}

template <typename T>
void pull_chunk(T* p, int64_t count, const Pull& pull) {
  const Vec scale(pull.scale), rate(pull.rate), center(pull.center), limit(pull.limit);
  for (int64_t at = 0; at < count; at += kBlock) {
    const int64_t n = std::min(kBlock, count - at);
    Block<T> block(p + at, n);
    float* x = block.data();
    const auto pulled = [&](Vec old) C10_ALWAYS_INLINE_ATTRIBUTE {
      return pull.rate == 0 ? old * scale : at::vec::fmsub(old, scale, rate * clamp(old - center, limit));
    };
    int64_t i = 0;
    for (; i + Vec::size() <= n; i += Vec::size()) pulled(Vec::loadu(x + i)).store(x + i);
    if (i < n) pulled(Vec::loadu(x + i, n - i)).store(x + i, n - i);
    block.store();
  }
}

// Calls with_type(float()) or with_type(at::BFloat16()).
template <typename WithType>
void dispatch_type(at::ScalarType dtype, const WithType& with_type) {
  TORCH_CHECK(dtype == at::kFloat || dtype == at::kBFloat16, "cpr: the kernel takes float32 and bfloat16");
  if (dtype == at::kFloat) with_type(float());
  else with_type(at::BFloat16());
}

void sums(TensorList params, Tensor out, int64_t kind) {
  if (params.empty()) return;
  for (const Tensor& param : params) check_parameter(param, params[0].scalar_type());
  TORCH_CHECK(out.numel() == 2 * int64_t(params.size()), "cpr: sums are [parameters, 2]");
  double* target = out.data_ptr<double>();
  dispatch_type(params[0].scalar_type(), [&](auto type) {
    dispatch(Sum(kind), [&](auto sum) { sums_of<decltype(type), sum()>(params, target); });
  });
}

// Sums up the parameters that don't match their marks.
void refresh(TensorList params, Tensor marks, Tensor out, int64_t kind) {
  std::vector<Tensor> changed;
  std::vector<int64_t> rows;
  TORCH_CHECK(marks.numel() == int64_t(params.size()) && out.numel() == 2 * int64_t(params.size()), "cpr: marks or sums differ in length");
  int64_t* mark = marks.data_ptr<int64_t>();
  for (size_t i = 0; i < params.size(); ++i) {
    check_parameter(params[i], params[0].scalar_type());
    const int64_t now = mark_of(params[i]);
    if (now == mark[i]) continue;
    mark[i] = now;
    changed.push_back(params[i]);
    rows.push_back(i);
  }
  if (rows.empty()) return;
  const Tensor found = at::empty({int64_t(rows.size()), 2}, out.options());
  sums(changed, found, kind);
  for (size_t k = 0; k < rows.size(); ++k) std::memcpy(out.data_ptr<double>() + 2 * rows[k], found.data_ptr<double>() + 2 * k, 2 * sizeof(double));
}

// The settings of cpr/bounds.py; `excess` is 0 without the safeguard.
struct Bounds {
  int64_t kind, method, interval, adaptive;
  float parameter, ema_decay, mu, scale, excess;
};

// One matrix's state.
struct Matrix {
  float *lam, *kappa;
  bool* is_set;
  float *sample, *growth, *smoothed;
  bool* was_active;
};

// Returns R(theta) per element.
float value_of(int64_t kind, double first, double second, double n) {
  if (kind != kSquaresAndValues) return float(first / n);
  return float(std::sqrt(std::max(first - second * second / n, 0.0) / (n - 1)));
}

// Sets the bound if R(theta_t) decides it, where t counts updates (section 4.3).
void observe(const Bounds& use, const Matrix& matrix, float t, float value) {
  bool sets = false;
  if (use.method == 2) {
    sets = t >= use.parameter;
  } else if (use.method == 3) {
    float measured = value;
    if (matrix.smoothed) {
      const float weight = 1 - use.ema_decay, from = *matrix.smoothed;
      measured = *matrix.smoothed = weight < 0.5f ? from + weight * (value - from) : value - (value - from) * (1 - weight);
    }
    if (t > 0 && std::fmod(t, float(use.interval)) == 0) {
      const float grew = measured - *matrix.sample;
      sets = t >= 4 * float(use.interval) && grew < *matrix.growth;
      *matrix.growth = grew;
      *matrix.sample = measured;
    }
  }
  if (sets && value > 0 && !*matrix.is_set) {
    *matrix.kappa = value;
    *matrix.is_set = true;
  }
}

// Returns the largest multiplier of one pull, which removes half of the matrix (cpr/measures.py).
float most_of(int64_t kind, float value, double n) {
  switch (kind) {
    case kSquares: return 0.25f;
    case kAbsolutes: return value / 2;
    case kHuber: return 0.5f;
    default: return float(n - 1) * value / 2;
  }
}

// bounds.constrain for one matrix, with the same bits:
// lambda_{t+1} = max(0, lambda_t + mu (R(theta_t) - kappa)) within the safeguard's limits, the pull,
// and AdaCPR. Products are not fused with sums, because torch's operations don't fuse them.
__attribute__((optimize("fp-contract=off"))) Pull constrain_one(const Bounds& use, const Matrix& matrix, float t, double first, double second,
                                                                double n) {
  const float value = value_of(use.kind, first, second, n), old = *matrix.lam;
  const bool finite = std::isfinite(value);
  if (finite) observe(use, matrix, t, value);
  const float kappa = *matrix.kappa;
  float lam = 0, shrink = 1;
  bool saturated = false;
  if (*matrix.is_set && !finite) lam = old;
  if (*matrix.is_set && finite) {
    const float difference = value - kappa, change = use.mu * difference;
    lam = std::max(old + change, 0.f);
    saturated = use.excess > 0 && value > use.excess * kappa;
    if (use.excess > 0 && use.scale > 0) lam = std::fmin(lam, most_of(use.kind, value, n) / use.scale);
    if (saturated) {
      lam = old;
      shrink = kappa / value;
      if (use.kind == kSquares || use.kind == kHuber) shrink = std::sqrt(shrink);
    }
  }
  const float applied = saturated ? 0 : use.scale * lam;
  if (finite && lam == 0 && value > 0) {
    if (use.adaptive == 1 && old > 0) *matrix.kappa = value;
    if (use.adaptive == 2 && *matrix.was_active) *matrix.kappa = std::min(kappa, value);
  }
  if (use.adaptive == 2 && lam > 0) *matrix.was_active = true;
  *matrix.lam = lam;
  switch (use.kind) {
    case kSquares: return {shrink - 2 * applied, 0, 0, 0};
    case kAbsolutes: return {shrink, 1, 0, applied};
    case kHuber: return {shrink, applied, 0, 1};
    default: return {shrink, value > 0 ? float(double(applied) / ((n - 1) * value)) : 0, float(second / n), INFINITY};
  }
}

template <typename T>
T* row(const std::optional<Tensor>& vector, int64_t i) {
  return vector ? vector->data_ptr<T>() + i * vector->stride(0) : nullptr;
}

// The state of many matrices. Each vector has one element per matrix.
struct State {
  Tensor sums, n, steps, lam, kappa, kappa_set;
  std::optional<Tensor> sample, growth, smoothed, was_active;
  Bounds use;

  void check(int64_t count) const {
    TORCH_CHECK(sums.numel() == 2 * count && n.numel() == count && steps.numel() == count && lam.numel() == count && kappa.numel() == count &&
                    kappa_set.numel() == count,
                "cpr: the state's vectors differ in length");
  }

  Pull constrain(int64_t i) const {
    const Matrix matrix{row<float>(lam, i), row<float>(kappa, i), row<bool>(kappa_set, i), row<float>(sample, i), row<float>(growth, i),
                        row<float>(smoothed, i), row<bool>(was_active, i)};
    const double* sum = sums.data_ptr<double>() + 2 * i;
    return constrain_one(use, matrix, *row<float>(steps, i), sum[0], sum[1], n.data_ptr<double>()[i]);
  }
};

void constrain(const Tensor& sums, const Tensor& n, const Tensor& steps, Tensor lam, Tensor kappa, Tensor kappa_set,
               const std::optional<Tensor>& sample, const std::optional<Tensor>& growth, const std::optional<Tensor>& smoothed,
               const std::optional<Tensor>& was_active, Tensor pull, int64_t kind, int64_t method, double parameter, int64_t interval,
               double ema_decay, double mu, double scale, int64_t adaptive, double excess) {
  const int64_t count = n.numel();
  const State state{sums, n, steps, lam, kappa, kappa_set, sample, growth, smoothed, was_active,
                    Bounds{kind, method, interval, adaptive, float(parameter), float(ema_decay), float(mu), float(scale), float(excess)}};
  state.check(count);
  TORCH_CHECK(pull.numel() == 4 * count, "cpr: a pull is 4 numbers a matrix");
  for (int64_t i = 0; i < count; ++i) {
    const Pull found = state.constrain(i);
    float* numbers = pull.data_ptr<float>() + i;  // [4, count]: scale, rate, center, limit
    numbers[0] = found.scale;
    numbers[count] = found.rate;
    numbers[2 * count] = found.center;
    numbers[3 * count] = found.limit;
  }
}

Pull pull_of(const Tensor& pull, int64_t i) {
  const int64_t count = pull.size(1);
  const float* numbers = pull.data_ptr<float>() + i;
  return {numbers[0], numbers[count], numbers[2 * count], numbers[3 * count]};
}

void bump(TensorList params) {
  for (const Tensor& param : params) {
    if (!param.is_inference()) param.unsafeGetTensorImpl()->bump_version();
  }
}

// Only pulls, from the last chunk to the first: what was written last is still in the processor's cache.
void pull_alone(TensorList params, const Tensor& pull) {
  std::vector<Tensor> pulled;
  std::vector<Pull> pulls;
  for (size_t i = params.size(); i-- > 0;) {
    const Pull numbers = pull_of(pull, i);
    if (numbers.changes_nothing()) continue;
    check_parameter(params[i], params[0].scalar_type());
    pulled.push_back(params[i]);
    pulls.push_back(numbers);
  }
  if (pulled.empty()) return;
  dispatch_type(params[0].scalar_type(), [&](auto type) {
    using T = decltype(type);
    Chunks(pulled).run(pulled, [&](size_t i, int64_t begin, int64_t end, int64_t) {
      const int64_t n = pulled[i].numel(), last = (n - 1) / kChunk * kChunk;
      const int64_t mirrored = last - begin;  // chunks of a matrix in reverse
      pull_chunk(pulled[i].data_ptr<T>() + mirrored, std::min(kChunk, n - mirrored), pulls[i]);
    });
  });
  bump(pulled);
}

void check_lists(const Lists& lists, const Tensor& steps) {
  const size_t count = lists.size();
  TORCH_CHECK(lists.grads.size() == count && lists.exp_avgs.size() == count && lists.exp_avg_sqs.size() == count &&
                  (lists.max_exp_avg_sqs.empty() || lists.max_exp_avg_sqs.size() == count) && steps.numel() == int64_t(count),
              "cpr: the lists differ in length");
  for (size_t i = 0; i < count; ++i) {
    const Tensor &param = lists.params[i], &grad = lists.grads[i];
    check_parameter(param, lists.params[0].scalar_type());
    check_moment(param, lists.exp_avgs[i]);
    check_moment(param, lists.exp_avg_sqs[i]);
    if (!lists.max_exp_avg_sqs.empty()) check_moment(param, lists.max_exp_avg_sqs[i]);
    TORCH_CHECK(grad.sizes() == param.sizes(), "cpr: a gradient of shape ", grad.sizes(), " does not fit its parameter of shape ", param.sizes());
  }
}

// Counts the step of every parameter.
std::vector<Rate> count_steps(const Tensor& steps, double lr, double beta1, double beta2) {
  std::vector<Rate> rates;
  for (int64_t i = 0; i < steps.numel(); ++i) {
    const double t = *row<float>(steps, i) += 1;
    rates.push_back({float(lr / (1 - std::pow(beta1, t))), float(1 / std::sqrt(1 - std::pow(beta2, t)))});
  }
  return rates;
}

// Calls work(begin, lists) for runs of parameters. A gradient with another layout ends a run. It is
// copied and its parameter goes alone, so that the memory of one copy is enough for all.
template <typename Work>
void in_runs(const Lists& lists, const Work& work) {
  const size_t count = lists.size();
  int64_t to_copy = 0;
  for (size_t i = 0; i < count; ++i) {
    if (!laid_out_alike(lists.grads[i], lists.params[i])) to_copy = std::max(to_copy, lists.params[i].numel());
  }
  const Tensor memory = at::empty({to_copy}, lists.params[0].options());
  for (size_t begin = 0, end = 0; begin < count; begin = end) {
    while (end < count && laid_out_alike(lists.grads[end], lists.params[end])) ++end;
    const bool copies = end == begin;
    Lists run = lists.slice(begin, copies ? 1 : end - begin);
    Tensor copy;
    if (copies) {
      copy = memory.as_strided(run.params[0].sizes(), run.params[0].strides()).copy_(run.grads[0]);
      run.grads = copy;
      ++end;
    }
    work(begin, run);
  }
}

void step(TensorList params, TensorList gradients, TensorList exp_avgs, TensorList exp_avg_sqs, TensorList max_exp_avg_sqs, Tensor steps,
          const std::optional<Tensor>& pull, const std::optional<Tensor>& out, const std::optional<Tensor>& marks, int64_t kind, double lr,
          double beta1, double beta2, double eps, bool maximize) {
  const size_t count = params.size();
  if (count == 0) return;
  const Lists lists{params, gradients, exp_avgs, exp_avg_sqs, max_exp_avg_sqs};
  check_lists(lists, steps);
  TORCH_CHECK((!out || out->numel() == 2 * int64_t(count)) && (!marks || marks->numel() == int64_t(count)), "cpr: marks or sums differ in length");
  const std::vector<Rate> rates = count_steps(steps, lr, beta1, beta2);
  std::vector<Pull> pulls(count);
  for (size_t i = 0; pull && i < count; ++i) pulls[i] = pull_of(*pull, i);
  const Adam adam{float(1 - beta1), float(beta2), float(1 - beta2), float(eps), maximize ? -1.f : 1.f};
  in_runs(lists, [&](size_t begin, const Lists& run) {
    double* target = out ? out->data_ptr<double>() + 2 * begin : nullptr;
    dispatch_type(params[0].scalar_type(), [&](auto type) {
      dispatch(out ? Sum(kind) : kNone, [&](auto sum) { step_of<decltype(type), sum()>(run, &rates[begin], adam, &pulls[begin], target); });
    });
  });
  bump(params);
  for (size_t i = 0; marks && i < count; ++i) marks->data_ptr<int64_t>()[i] = mark_of(params[i]);
}

// evaluate_at="after". The thread that updates a matrix's last chunk computes its multiplier from
// R(theta'). Then every thread pulls the chunks that it has updated itself before it goes on, while
// they are in its own caches. A thread waits only at the end, for what others update.
template <typename T, Sum kind>
class After {
 public:
  After(const Lists& lists, const Rate* rates, const Adam& adam, const State& state, int64_t first_row)
      : lists_(lists), rates_(rates), adam_(adam), state_(state), first_row_(first_row), chunks_(lists.params),
        parts_(2 * chunks_.first.back(), 0), pulls_(lists.size()), to_update_(lists.size()), is_known_(lists.size()) {
    for (size_t i = 0; i < lists.size(); ++i) {
      to_update_[i] = chunks_.first[i + 1] - chunks_.first[i];
      if (to_update_[i] == 0) constrain(i);
    }
  }

  void run() {
    const int64_t threads = std::min<int64_t>(at::get_num_threads(), chunks_.first.back());
    at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
      std::vector<int64_t> mine;  // chunks that this thread has updated, pulled up to mine[unpulled]
      size_t unpulled = 0;
      for (bool more = true; more || unpulled < mine.size();) {
        more = update(mine);
        const bool waits = !pull(mine, unpulled);
        if (!more && waits) std::this_thread::yield();
      }
    });
  }

 private:
  // Updates the next chunk and adds it to `mine`. Returns false if all are taken.
  bool update(std::vector<int64_t>& mine) {
    const int64_t chunk = next_.fetch_add(1);
    if (chunk >= chunks_.first.back()) return false;
    const size_t i = chunks_.tensor_of(chunk);
    const auto [begin, end] = elements(i, chunk);
    update_elements<T, kind>(lists_, i, begin, end, Numbers(adam_, rates_[i], Pull()), false, &parts_[2 * chunk]);
    mine.push_back(chunk);
    if (to_update_[i].fetch_sub(1) == 1) constrain(i);
    return true;
  }

  void constrain(size_t i) {
    chunks_.reduce(i, parts_, state_.sums.data_ptr<double>() + 2 * first_row_);
    pulls_[i] = state_.constrain(first_row_ + i);
    is_known_[i] = true;
  }

  // Pulls the chunks of the next matrix, the last written first. Returns false if there is none, or if
  // its multiplier is not known yet.
  bool pull(const std::vector<int64_t>& mine, size_t& unpulled) {
    if (unpulled == mine.size()) return false;
    const size_t i = chunks_.tensor_of(mine[unpulled]);
    if (!is_known_[i]) return false;
    const size_t end = std::lower_bound(mine.begin() + unpulled, mine.end(), chunks_.first[i + 1]) - mine.begin();
    for (size_t k = end; !pulls_[i].changes_nothing() && k-- > unpulled;) {
      const auto [first, last] = elements(i, mine[k]);
      pull_chunk(lists_.params[i].data_ptr<T>() + first, last - first, pulls_[i]);
    }
    unpulled = end;
    return true;
  }

  std::pair<int64_t, int64_t> elements(size_t i, int64_t chunk) const {
    const int64_t begin = (chunk - chunks_.first[i]) * kChunk;
    return {begin, std::min<int64_t>(begin + kChunk, lists_.params[i].numel())};
  }

  const Lists& lists_;
  const Rate* rates_;
  const Adam& adam_;
  const State& state_;
  const int64_t first_row_;
  const Chunks chunks_;
  std::vector<double> parts_;
  std::vector<Pull> pulls_;
  std::vector<std::atomic<int64_t>> to_update_;  // chunks of each matrix that are still to update
  std::vector<std::atomic<bool>> is_known_;      // whether each matrix's multiplier is known
  std::atomic<int64_t> next_ = 0;
};

void step_then_pull(TensorList params, TensorList gradients, TensorList exp_avgs, TensorList exp_avg_sqs, TensorList max_exp_avg_sqs,
                    const Tensor& sums, const Tensor& n, const Tensor& steps, const Tensor& lam, const Tensor& kappa, const Tensor& kappa_set,
                    const std::optional<Tensor>& sample, const std::optional<Tensor>& growth, const std::optional<Tensor>& smoothed,
                    const std::optional<Tensor>& was_active, int64_t kind, int64_t method, double parameter, int64_t interval, double ema_decay,
                    double mu, double scale, int64_t adaptive, double excess, double lr, double beta1, double beta2, double eps, bool maximize) {
  if (params.empty()) return;
  const Lists lists{params, gradients, exp_avgs, exp_avg_sqs, max_exp_avg_sqs};
  check_lists(lists, steps);
  const State state{sums, n, steps, lam, kappa, kappa_set, sample, growth, smoothed, was_active,
                    Bounds{kind, method, interval, adaptive, float(parameter), float(ema_decay), float(mu), float(scale), float(excess)}};
  state.check(params.size());
  const std::vector<Rate> rates = count_steps(steps, lr, beta1, beta2);
  const Adam adam{float(1 - beta1), float(beta2), float(1 - beta2), float(eps), maximize ? -1.f : 1.f};
  in_runs(lists, [&](size_t begin, const Lists& run) {
    dispatch_type(params[0].scalar_type(), [&](auto type) {
      dispatch(Sum(kind), [&](auto sum) { After<decltype(type), sum()>(run, &rates[begin], adam, state, begin).run(); });
    });
  });
  bump(params);
}

}  // namespace

TORCH_LIBRARY(cpr, library) {
  library.def("layouts(Tensor[] params) -> int");
  library.def("fit(Tensor[] params, Tensor[] grads, Tensor[] moments) -> bool");
  library.def("sums_(Tensor[] params, Tensor(a!) out, int kind) -> ()");
  library.def("refresh_(Tensor[] params, Tensor(a!) marks, Tensor(b!) out, int kind) -> ()");
  library.def(
      "constrain_(Tensor sums, Tensor n, Tensor steps, Tensor(a!) lam, Tensor(b!) kappa, Tensor(c!) kappa_set, Tensor(d!)? sample, "
      "Tensor(e!)? growth, Tensor(f!)? smoothed, Tensor(g!)? was_active, Tensor(h!) pull, int kind, int method, float parameter, "
      "int interval, float ema_decay, float mu, float scale, int adaptive, float excess) -> ()");
  library.def("pull_(Tensor(a!)[] params, Tensor pull) -> ()");
  library.def(
      "step_then_pull_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] max_exp_avg_sqs, "
      "Tensor(e!) sums, Tensor n, Tensor(f!) steps, Tensor(g!) lam, Tensor(h!) kappa, Tensor(i!) kappa_set, Tensor(j!)? sample, "
      "Tensor(k!)? growth, Tensor(l!)? smoothed, Tensor(m!)? was_active, int kind, int method, float parameter, int interval, "
      "float ema_decay, float mu, float scale, int adaptive, float excess, float lr, float beta1, float beta2, float eps, "
      "bool maximize) -> ()");
  library.def(
      "step_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] max_exp_avg_sqs, "
      "Tensor(e!) steps, Tensor? pull, Tensor(f!)? out, Tensor(g!)? marks, int kind, float lr, float beta1, float beta2, float eps, "
      "bool maximize) -> ()");
}

TORCH_LIBRARY_IMPL(cpr, CPU, library) {
  library.impl("layouts", &layouts);
  library.impl("fit", &fit);
  library.impl("sums_", &sums);
  library.impl("refresh_", &refresh);
  library.impl("constrain_", &constrain);
  library.impl("pull_", &pull_alone);
  library.impl("step_then_pull_", &step_then_pull);
  library.impl("step_", &step);
}
