#include <filesystem>
#include <functional>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/model/llama_config.hpp"

using namespace llmft;
using Json = nlohmann::json;

namespace {

const std::filesystem::path kGolden = std::filesystem::path(LLMFT_SOURCE_DIR) / "tests/golden";

// meta-llama/Llama-3.2-1B, config.json
constexpr const char* kLlama32 = R"({
  "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 128000,
  "eos_token_id": 128001, "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
  "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
  "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1,
  "rms_norm_eps": 1e-05,
  "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                   "original_max_position_embeddings": 8192, "rope_type": "llama3"},
  "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
  "transformers_version": "4.45.0.dev0", "use_cache": true, "vocab_size": 128256})";

LlamaConfig parse(const Json& json) {
  return parse_llama_config(json.dump(), "config.json");
}

// The message when `json` is refused; "" when it is not.
std::string refusal(const Json& json) {
  try {
    parse(json);
  } catch (const UserError& e) {
    return e.what();
  }
  return "";
}

bool same(const LlamaConfig& a, const LlamaConfig& b) {
  return config_json(a) == config_json(b);
}

}  // namespace

TEST_CASE("Llama 3.2 1B") {
  LlamaConfig c = parse_llama_config(kLlama32, "config.json");
  CHECK(c.vocab_size == 128256);
  CHECK(c.hidden_size == 2048);
  CHECK(c.intermediate_size == 8192);
  CHECK(c.num_hidden_layers == 16);
  CHECK(c.num_attention_heads == 32);
  CHECK(c.num_key_value_heads == 8);
  CHECK(c.head_dim == 64);
  CHECK(c.rms_norm_eps == 1e-5);
  CHECK(c.rope_theta == 500000);
  CHECK(c.rope_scaling.kind == RopeScaling::Kind::llama3);
  CHECK(c.rope_scaling.factor == 32);
  CHECK(c.rope_scaling.low_freq_factor == 1);
  CHECK(c.rope_scaling.high_freq_factor == 4);
  CHECK(c.rope_scaling.original_max_position_embeddings == 8192);
  CHECK(c.tie_word_embeddings);
  CHECK(c.max_position_embeddings == 131072);
  CHECK(c.bos_token_id == 128000);
  CHECK(c.eos_token_ids == std::vector<int64_t>{128001});
  CHECK(c.torch_dtype == "bfloat16");
  CHECK(c.parameter_count() == 1'235'814'400);  // the model card's 1.23B
  c.tie_word_embeddings = false;
  CHECK(c.parameter_count() == 1'235'814'400 + int64_t{128256} * 2048);
}

TEST_CASE("both forms of transformers, from files it wrote") {
  LlamaConfig v5 = load_llama_config(kGolden / "parity_tied/model");
  CHECK(v5.rope_theta == 500000);
  CHECK(v5.rope_scaling.kind == RopeScaling::Kind::llama3);
  CHECK(v5.rope_scaling.original_max_position_embeddings == 16);
  CHECK(v5.torch_dtype == "float32");
  CHECK(v5.tie_word_embeddings);
  LlamaConfig v4 = load_llama_config(kGolden / "parity_untied/model");
  CHECK(v4.rope_theta == 500000);
  CHECK(v4.rope_scaling.kind == RopeScaling::Kind::llama3);
  CHECK(v4.head_dim == 24);  // not hidden_size / heads
  CHECK(!v4.tie_word_embeddings);

  Json json = Json::parse(kLlama32);
  LlamaConfig old_form = parse(json);
  json["rope_parameters"] = json["rope_scaling"];
  json["rope_parameters"]["rope_theta"] = json["rope_theta"];
  json.erase("rope_scaling");
  json.erase("rope_theta");
  CHECK(same(parse(json), old_form));
  json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 10000.0}};
  CHECK(parse(json).rope_scaling.kind == RopeScaling::Kind::none);
  CHECK(parse(json).rope_theta == 10000);
}

TEST_CASE("absent keys take transformers' defaults") {
  LlamaConfig c = parse({{"model_type", "llama"},
                         {"vocab_size", 100},
                         {"hidden_size", 64},
                         {"intermediate_size", 96},
                         {"num_hidden_layers", 2},
                         {"num_attention_heads", 4},
                         {"rope_scaling", nullptr},
                         {"eos_token_id", {1, 2}}});
  CHECK(c.num_key_value_heads == 4);
  CHECK(c.head_dim == 16);
  CHECK(c.rms_norm_eps == 1e-6);
  CHECK(c.rope_theta == 10000);
  CHECK(c.rope_scaling.kind == RopeScaling::Kind::none);
  CHECK(!c.tie_word_embeddings);
  CHECK(c.max_position_embeddings == 2048);
  CHECK(c.bos_token_id == -1);
  CHECK(c.eos_token_ids == std::vector<int64_t>{1, 2});
}

TEST_CASE("what is written reads back the same") {
  Json json = Json::parse(kLlama32);
  for (const Json& eos : {Json(5), Json({5, 6}), Json()}) {
    json["eos_token_id"] = eos;
    LlamaConfig c = parse(json);
    CHECK(same(parse_llama_config(config_json(c), "again"), c));
  }
  json.erase("rope_scaling");
  CHECK(parse_llama_config(config_json(parse(json)), "again").rope_scaling.kind == RopeScaling::Kind::none);
}

TEST_CASE("an exported config keeps what it does not know") {
  Json json = Json::parse(kLlama32);
  json["custom"] = {1, 2};
  Json exported = Json::parse(config_json_with_dtype(json.dump(), DType::f16));
  CHECK(exported["torch_dtype"] == "float16");
  CHECK(!exported.contains("dtype"));
  exported["torch_dtype"] = "bfloat16";
  CHECK(exported == json);
  json.erase("torch_dtype");
  json["dtype"] = "bfloat16";
  exported = Json::parse(config_json_with_dtype(json.dump(), DType::f32));
  CHECK(exported["dtype"] == "float32");
  CHECK(!exported.contains("torch_dtype"));
}

TEST_CASE("configs that are refused say why") {
  struct Case {
    std::string pointer;  // JSON pointer of the key
    std::string value;    // JSON; "-" removes it
    std::vector<const char*> said;
  };
  const Case cases[] = {
      {"/model_type", R"("mistral")", {"model_type", "'mistral'", "'llama' is needed"}},
      {"/model_type", "-", {"model_type is missing"}},
      {"/attention_bias", "true", {"attention_bias is true"}},
      {"/mlp_bias", "true", {"mlp_bias is true"}},
      {"/mlp_bias", "1", {"mlp_bias", "not true or false"}},
      {"/hidden_act", R"("gelu")", {"hidden_act", "'gelu'", "'silu'"}},
      {"/quantization_config", "{}", {"quantization_config", "quantised"}},
      {"/vocab_size", "-", {"vocab_size is missing"}},
      {"/vocab_size", "0", {"vocab_size is 0"}},
      {"/vocab_size", "4294967296", {"vocab_size is 4294967296"}},
      {"/hidden_size", "2048.5", {"hidden_size is 2048.5"}},
      {"/hidden_size", R"("2048")", {"hidden_size is \"2048\""}},
      {"/num_hidden_layers", "-3", {"num_hidden_layers is -3"}},
      {"/num_hidden_layers", "2147483647", {"impossibly large"}},
      {"/num_key_value_heads", "5", {"num_key_value_heads is 5", "num_attention_heads, which is 32"}},
      {"/head_dim", "63", {"head_dim is 63", "even"}},
      {"/rms_norm_eps", "0", {"rms_norm_eps is 0"}},
      {"/bos_token_id", "128256", {"bos_token_id has 128256", "vocabulary of 128256"}},
      {"/eos_token_id", "[1,-1]", {"eos_token_id has -1"}},
      {"/eos_token_id", R"("x")", {"eos_token_id has \"x\""}},
      {"/rope_theta", "0", {"rope_theta is 0"}},
      {"/rope_theta", "1.0", {"rope_theta is 1", "above 1"}},
      {"/partial_rotary_factor", "0.5", {"partial_rotary_factor"}},
      {"/rope_scaling", "[]", {"rope_scaling is not an object"}},
      {"/rope_scaling/rope_type", R"("yarn")", {"rope_scaling.rope_type is 'yarn'", "'llama3'"}},
      {"/rope_scaling", R"({"type": "linear", "factor": 2.0})", {"rope_scaling.rope_type is 'linear'"}},
      {"/rope_parameters", R"({"rope_type": "dynamic"})", {"rope_parameters.rope_type is 'dynamic'"}},
      {"/rope_scaling/factor", "-", {"rope_scaling.factor is missing"}},
      {"/rope_scaling/factor", "0", {"rope_scaling.factor is 0"}},
      {"/rope_scaling/factor", "-8", {"rope_scaling.factor is -8"}},
      {"/rope_scaling/low_freq_factor", "-", {"rope_scaling.low_freq_factor is missing"}},
      {"/rope_scaling/low_freq_factor", "0", {"rope_scaling.low_freq_factor is 0"}},
      {"/rope_scaling/low_freq_factor", "4", {"rope_scaling.low_freq_factor is 4", "below high_freq_factor"}},
      {"/rope_scaling/high_freq_factor", R"("4")", {"rope_scaling.high_freq_factor"}},
      {"/rope_scaling/original_max_position_embeddings",
       "-",
       {"rope_scaling.original_max_position_embeddings is missing"}},
      {"/rope_scaling/original_max_position_embeddings",
       "0.5",
       {"rope_scaling.original_max_position_embeddings is 0.5"}},
  };
  for (const Case& c : cases) {
    Json json = Json::parse(kLlama32);
    Json::json_pointer at(c.pointer);
    if (c.value == "-")
      json.at(at.parent_pointer()).erase(at.back());
    else
      json[at] = Json::parse(c.value);
    std::string message = refusal(json);
    CAPTURE(c.pointer);
    CAPTURE(c.value);
    CAPTURE(message);
    CHECK(message.starts_with("config.json: "));
    for (const char* part : c.said) CHECK(message.find(part) != std::string::npos);
  }
  Json json = Json::parse(kLlama32);
  json.erase("head_dim");
  json["num_attention_heads"] = 24;
  CHECK(refusal(json).find("num_attention_heads is 24") != std::string::npos);
  for (const char* text : {"", "{", "[]", "null", R"({"vocab_size": 1e999})"})
    CHECK_THROWS_AS(parse_llama_config(text, "config.json"), UserError);
}

TEST_CASE("a missing file says where a model comes from") {
  try {
    load_llama_config("/nowhere/model");
    FAIL("not refused");
  } catch (const UserError& e) {
    std::string message = e.what();
    CHECK(message.find("/nowhere/model/config.json: not found") != std::string::npos);
    CHECK(message.find("hf download meta-llama/Llama-3.2-1B --local-dir /nowhere/model") !=
          std::string::npos);
  }
}
