#include "llmft/model/llama_config.hpp"

#include <algorithm>
#include <limits>
#include <optional>

#include <nlohmann/json.hpp>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/log.hpp"

namespace llmft {
namespace {

using Json = nlohmann::json;

// The config's object, or one inside it, with errors that name file and key. An absent key and null are the
// same.
class Fields {
 public:
  Fields(const Json& object, std::string where, std::string prefix = "")
      : object_(&object), where_(std::move(where)), prefix_(std::move(prefix)) {}

  [[noreturn]] void fail(const std::string& key, const std::string& why,
                         const std::string& advice = "check the model folder") const {
    user_error("{}: {}{} {}; {}", where_, prefix_, key, why, advice);
  }

  const Json* find(const char* key) const {
    auto at = object_->find(key);
    return at == object_->end() || at->is_null() ? nullptr : &*at;
  }
  // 1 to 2^31 - 1.
  int64_t size(const char* key, std::optional<int64_t> fallback = std::nullopt) const {
    const Json* value = find(key);
    if (value == nullptr) return fallback ? *fallback : (missing(key), 0);
    if (!value->is_number_integer() || *value < 1 || *value > std::numeric_limits<int32_t>::max())
      fail(key, fmt::format("is {}, not a positive whole number", value->dump()));
    return value->get<int64_t>();
  }
  double positive(const char* key, std::optional<double> fallback = std::nullopt) const {
    const Json* value = find(key);
    if (value == nullptr) return fallback ? *fallback : (missing(key), 0);
    if (!value->is_number() || !(value->get<double>() > 0))
      fail(key, fmt::format("is {}, not a positive number", value->dump()));
    return value->get<double>();
  }
  bool boolean(const char* key, bool fallback) const {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) fail(key, fmt::format("is {}, not true or false", value->dump()));
    return value->get<bool>();
  }
  std::string text(const char* key, const std::string& fallback) const {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_string()) fail(key, fmt::format("is {}, not a text", value->dump()));
    return value->get<std::string>();
  }
  // One id, a list of them, or none.
  std::vector<int64_t> token_ids(const char* key, int64_t vocab_size) const {
    const Json* value = find(key);
    if (value == nullptr) return {};
    std::vector<int64_t> ids;
    for (const Json& id : value->is_array() ? *value : Json::array({*value})) {
      if (!id.is_number_integer() || id < 0 || id >= vocab_size)
        fail(key, fmt::format("has {}, which is no token of a vocabulary of {}", id.dump(), vocab_size));
      ids.push_back(id.get<int64_t>());
    }
    return ids;
  }
  std::optional<Fields> object(const char* key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_object()) fail(key, "is not an object");
    return Fields(*value, where_, prefix_ + key + ".");
  }

 private:
  void missing(const char* key) const { fail(key, "is missing"); }

  const Json* object_;
  std::string where_;
  std::string prefix_;
};

RopeScaling read_scaling(const Fields& fields) {
  RopeScaling scaling;
  // "type" is the name before transformers 4.43
  std::string kind = fields.text("rope_type", fields.text("type", "default"));
  if (kind == "default") return scaling;
  if (kind != "llama3")
    fields.fail("rope_type",
                fmt::format("is '{}', which is not supported (only 'default' and 'llama3' are)", kind),
                "use a Llama 3.x model");
  scaling.kind = RopeScaling::Kind::llama3;
  scaling.factor = fields.positive("factor");
  scaling.low_freq_factor = fields.positive("low_freq_factor");
  scaling.high_freq_factor = fields.positive("high_freq_factor");
  scaling.original_max_position_embeddings = fields.size("original_max_position_embeddings");
  if (scaling.low_freq_factor >= scaling.high_freq_factor)
    fields.fail("low_freq_factor", fmt::format("is {}, but must be below high_freq_factor, which is {}",
                                               scaling.low_freq_factor, scaling.high_freq_factor));
  return scaling;
}

void read_rope(const Fields& fields, LlamaConfig& config) {
  double theta = fields.positive("rope_theta", 10000);
  std::optional<Fields> rope = fields.object("rope_parameters");
  if (!rope) rope = fields.object("rope_scaling");
  if (rope) {
    config.rope_scaling = read_scaling(*rope);
    theta = rope->positive("rope_theta", theta);
  }
  if (theta <= 1) fields.fail("rope_theta", fmt::format("is {}, but must be above 1", theta));
  config.rope_theta = theta;
  for (const Fields& place : rope ? std::vector{fields, *rope} : std::vector{fields})
    if (place.positive("partial_rotary_factor", 1) != 1)
      place.fail("partial_rotary_factor", "is not 1, which is not supported", "use a Llama 3.x model");
}

void refuse_other_models(const Fields& fields) {
  const char* advice = "use a Llama 3.x model";
  std::string type = fields.text("model_type", "");
  if (type != "llama")
    fields.fail(
        "model_type",
        type.empty() ? "is missing, 'llama' is needed" : fmt::format("is '{}', 'llama' is needed", type),
        advice);
  for (const char* key : {"attention_bias", "mlp_bias"})
    if (fields.boolean(key, false))
      fields.fail(key, "is true, but linears with a bias are not supported", advice);
  std::string activation = fields.text("hidden_act", "silu");
  if (activation != "silu" && activation != "swish")
    fields.fail("hidden_act", fmt::format("is '{}', only 'silu' is supported", activation), advice);
  if (fields.find("quantization_config") != nullptr)
    fields.fail("quantization_config", "is there, but quantised weights are not supported",
                "use the model in bf16, fp16 or fp32");
  const Json* dropout = fields.find("attention_dropout");
  if (dropout != nullptr && dropout->is_number() && *dropout != 0)
    log::warn("attention_dropout of the model's config.json is {}; training here has no dropout",
              dropout->dump());
}

void check_sizes(const Fields& fields, const LlamaConfig& c) {
  if (c.num_attention_heads % c.num_key_value_heads != 0)
    fields.fail("num_key_value_heads",
                fmt::format("is {}, which does not divide num_attention_heads, which is {}",
                            c.num_key_value_heads, c.num_attention_heads));
  if (c.head_dim % 2 != 0) fields.fail("head_dim", fmt::format("is {}, but must be even", c.head_dim));
  double widest =
      static_cast<double>(std::max({c.hidden_size, c.intermediate_size, c.num_attention_heads * c.head_dim}));
  double bound =
      static_cast<double>(c.hidden_size) *
      (2.0 * static_cast<double>(c.vocab_size) + 8.0 * widest * static_cast<double>(c.num_hidden_layers));
  if (bound > 1e15) fields.fail("hidden_size", "and the other sizes make an impossibly large model");
}

}  // namespace

int64_t LlamaConfig::parameter_count() const {
  int64_t query = num_attention_heads * head_dim;
  int64_t key = num_key_value_heads * head_dim;
  int64_t layer = hidden_size * (2 * query + 2 * key + 3 * intermediate_size + 2);
  return (tie_word_embeddings ? 1 : 2) * vocab_size * hidden_size + num_hidden_layers * layer + hidden_size;
}

LlamaConfig parse_llama_config(std::string_view text, const std::string& where) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) user_error("{}: not a JSON object; download the model's config.json again", where);
  Fields fields(json, where);
  refuse_other_models(fields);

  LlamaConfig config;
  config.vocab_size = fields.size("vocab_size");
  config.hidden_size = fields.size("hidden_size");
  config.intermediate_size = fields.size("intermediate_size");
  config.num_hidden_layers = fields.size("num_hidden_layers");
  config.num_attention_heads = fields.size("num_attention_heads");
  config.num_key_value_heads = fields.size("num_key_value_heads", config.num_attention_heads);
  if (fields.find("head_dim") == nullptr && config.hidden_size % config.num_attention_heads != 0)
    fields.fail("num_attention_heads", fmt::format("is {}, which does not divide hidden_size, which is {}",
                                                   config.num_attention_heads, config.hidden_size));
  config.head_dim = fields.size("head_dim", config.hidden_size / config.num_attention_heads);
  config.rms_norm_eps = fields.positive("rms_norm_eps", config.rms_norm_eps);
  config.tie_word_embeddings = fields.boolean("tie_word_embeddings", false);
  config.max_position_embeddings = fields.size("max_position_embeddings", config.max_position_embeddings);
  config.eos_token_ids = fields.token_ids("eos_token_id", config.vocab_size);
  std::vector<int64_t> bos = fields.token_ids("bos_token_id", config.vocab_size);
  if (!bos.empty()) config.bos_token_id = bos[0];
  config.torch_dtype = fields.text("torch_dtype", fields.text("dtype", ""));
  read_rope(fields, config);
  check_sizes(fields, config);
  return config;
}

std::string download_command(const std::filesystem::path& folder) {
  std::filesystem::path normal = folder.lexically_normal();
  std::string name = (normal.has_filename() ? normal : normal.parent_path()).filename().string();
  return fmt::format("hf download meta-llama/{} --local-dir {}",
                     name.starts_with("Llama-") ? name : "Llama-3.2-1B", folder.string());
}

LlamaConfig load_llama_config(const std::filesystem::path& folder) {
  std::filesystem::path path = folder / "config.json";
  if (!std::filesystem::exists(path))
    user_error("{}: not found (a Hugging Face model folder has one); download a model, e.g. {}",
               path.string(), download_command(folder));
  return parse_llama_config(read_file(path), path.string());
}

std::string config_json(const LlamaConfig& c) {
  Json json = {{"architectures", {"LlamaForCausalLM"}},
               {"attention_bias", false},
               {"attention_dropout", 0.0},
               {"head_dim", c.head_dim},
               {"hidden_act", "silu"},
               {"hidden_size", c.hidden_size},
               {"initializer_range", 0.02},
               {"intermediate_size", c.intermediate_size},
               {"max_position_embeddings", c.max_position_embeddings},
               {"mlp_bias", false},
               {"model_type", "llama"},
               {"num_attention_heads", c.num_attention_heads},
               {"num_hidden_layers", c.num_hidden_layers},
               {"num_key_value_heads", c.num_key_value_heads},
               {"rms_norm_eps", c.rms_norm_eps},
               {"rope_scaling", nullptr},
               {"rope_theta", c.rope_theta},
               {"tie_word_embeddings", c.tie_word_embeddings},
               {"use_cache", true},
               {"vocab_size", c.vocab_size}};
  json["bos_token_id"] = c.bos_token_id < 0 ? Json() : Json(c.bos_token_id);
  json["eos_token_id"] = c.eos_token_ids.empty()       ? Json()
                         : c.eos_token_ids.size() == 1 ? Json(c.eos_token_ids[0])
                                                       : Json(c.eos_token_ids);
  if (!c.torch_dtype.empty()) json["torch_dtype"] = c.torch_dtype;
  if (c.rope_scaling.kind == RopeScaling::Kind::llama3)
    json["rope_scaling"] = {
        {"rope_type", "llama3"},
        {"factor", c.rope_scaling.factor},
        {"low_freq_factor", c.rope_scaling.low_freq_factor},
        {"high_freq_factor", c.rope_scaling.high_freq_factor},
        {"original_max_position_embeddings", c.rope_scaling.original_max_position_embeddings}};
  return json.dump(2) + "\n";
}

std::string config_json_with_dtype(std::string_view source_text, DType dtype) {
  check(dtype != DType::i32, "weights of integers");
  auto json = nlohmann::ordered_json::parse(source_text);
  const char* name = dtype == DType::f32 ? "float32" : dtype == DType::bf16 ? "bfloat16" : "float16";
  // transformers 5 writes "dtype"; both versions read "torch_dtype"
  json[json.contains("dtype") ? "dtype" : "torch_dtype"] = name;
  if (json.contains("dtype") && json.contains("torch_dtype")) json["torch_dtype"] = name;
  return json.dump(2) + "\n";
}

}  // namespace llmft
