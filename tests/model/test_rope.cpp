#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numbers>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "llmft/base/file.hpp"
#include "llmft/model/rope.hpp"
#include "llmft/model/safetensors.hpp"

using namespace llmft;

namespace {

const std::filesystem::path kRope = std::filesystem::path(LLMFT_SOURCE_DIR) / "tests/golden/rope";

LlamaConfig llama32_1b() {
  LlamaConfig config;
  config.head_dim = 64;
  config.rope_theta = 500000;
  config.rope_scaling = {RopeScaling::Kind::llama3, 32, 1, 4, 8192};
  return config;
}

}  // namespace

TEST_CASE("without scaling: theta^(-2i/D)") {
  LlamaConfig config;
  config.head_dim = 4;
  config.rope_theta = 10000;
  CHECK(rope_inv_freq(config) == std::vector<float>{1, 0.01f});
  std::vector<float> table = rope_table(config, 3);
  REQUIRE(table.size() == 12);
  CHECK(table[0] == 1);  // position 0: no rotation
  CHECK(table[2] == 0);
  CHECK(table[8] == doctest::Approx(std::cos(2.0)));
  CHECK(table[9] == doctest::Approx(std::cos(0.02)));
  CHECK(table[10] == doctest::Approx(std::sin(2.0)));
  CHECK(table[11] == doctest::Approx(std::sin(0.02)));
}

TEST_CASE("llama3 scaling of Llama 3.2: three bands, by hand") {
  LlamaConfig config = llama32_1b();
  std::vector<float> scaled = rope_inv_freq(config);
  config.rope_scaling.kind = RopeScaling::Kind::none;
  std::vector<float> plain = rope_inv_freq(config);
  for (size_t i = 0; i < 32; ++i) {
    double wavelength = 2 * std::numbers::pi * std::pow(500000.0, static_cast<double>(i) / 32);
    if (wavelength < 2048) CHECK(scaled[i] == plain[i]);                                      // 8192 / 4
    if (wavelength > 8192) CHECK(scaled[i] == doctest::Approx(plain[i] / 32).epsilon(1e-6));  // 8192 / 1
  }
  // i = 15: wavelength 2949.67, 8192 / 2949.67 = 2.77726, smooth (2.77726 - 1) / 3 = 0.592420
  CHECK(plain[15] == doctest::Approx(0.00213013).epsilon(1e-5));
  CHECK(scaled[15] == doctest::Approx(plain[15] * (0.592420 + (1 - 0.592420) / 32)).epsilon(1e-5));
}

TEST_CASE("as transformers computes it") {
  auto golden = nlohmann::json::parse(read_file(kRope / "rope.json"));
  TensorFolder tensors(kRope / "rope.safetensors");
  auto positions = golden["positions"].get<std::vector<int64_t>>();
  for (const auto& [name, parameters] : golden["configs"].items()) {
    CAPTURE(name);
    LlamaConfig config;
    config.head_dim = parameters["head_dim"];
    config.rope_theta = parameters["rope_theta"];
    config.rope_scaling = {RopeScaling::Kind::llama3, parameters["factor"], parameters["low_freq_factor"],
                           parameters["high_freq_factor"], parameters["original_max_position_embeddings"]};
    int64_t half = config.head_dim / 2;
    auto n = static_cast<int64_t>(positions.size());
    std::vector<float> inv_freq(static_cast<size_t>(half)), cos(static_cast<size_t>(n * half)),
        sin(cos.size());
    tensors.read_f32(name + ".inv_freq", {half}, inv_freq);
    tensors.read_f32(name + ".cos", {n, half}, cos);
    tensors.read_f32(name + ".sin", {n, half}, sin);

    CHECK(rope_inv_freq(config) == inv_freq);
    std::vector<float> table = rope_table(config, positions.back() + 1);
    float worst = 0;
    for (size_t p = 0; p < positions.size(); ++p)
      for (size_t i = 0; i < inv_freq.size(); ++i) {
        const float* row = table.data() + positions[p] * config.head_dim;
        size_t at = p * inv_freq.size() + i;
        worst = std::max({worst, std::abs(row[i] - cos[at]), std::abs(row[inv_freq.size() + i] - sin[at])});
      }
    CHECK(worst <=
          6e-8f);  // one unit in the last place below 1: PyTorch's vector cosine is not rounded exactly
  }
}
