#include "attention.hpp"

namespace llmft {
namespace {

class NoAttention final : public AttentionEngine {
 public:
  void attention(const AttentionShape&, Indices, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                 const Tensor&) override {
    user_error("--device cuda: this version has no attention on the GPU; use --device cpu");
  }
  void attention_backward(const AttentionShape&, Indices, const Tensor&, const Tensor&, const Tensor&,
                          const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                          const Tensor&) override {
    user_error("--device cuda: this version has no attention on the GPU; use --device cpu");
  }
};

}  // namespace

std::unique_ptr<AttentionEngine> make_attention_engine(CudaDevice&, MatmulMode, AttentionOrder) {
  return std::make_unique<NoAttention>();
}

}  // namespace llmft
