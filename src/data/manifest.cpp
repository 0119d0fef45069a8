#include "llmft/data/manifest.hpp"

#include <nlohmann/json.hpp>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"

namespace llmft {
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

// Of everything but the hash itself.
std::string content_hash(json root) {
  root.erase("hash");
  return hash_bytes(root.dump());
}

}  // namespace

std::string to_json(const Manifest& m) {
  json sources = json::array();
  for (const auto& source : m.sources)
    sources.push_back({{"name", source.name}, {"bytes", source.bytes}, {"hash", source.hash}});
  json shards = json::array();
  for (const auto& shard : m.shards)
    shards.push_back({{"file", shard.file},
                      {"bytes", shard.bytes},
                      {"rows", shard.rows},
                      {"tokens", shard.tokens},
                      {"loss_tokens", shard.loss_tokens},
                      {"hash", shard.hash}});
  json drops = json::object();
  for (size_t i = 0; i < m.drops.size(); ++i) drops[kDropReasonNames[i]] = m.drops[i];
  auto id = [](int64_t value) { return value < 0 ? json() : json(value); };
  json duplicates;
  if (const Manifest::Duplicates& d = m.duplicates; !d.file.empty())
    duplicates = {{"file", d.file}, {"bytes", d.bytes}, {"rows", d.rows}, {"hash", d.hash}};
  json root = {{"format", "llmft-shards"},
               {"format_version", m.format_version},
               {"split", m.split},
               {"template", m.template_name},
               {"fingerprint", m.fingerprint},
               {"tokenizer",
                {{"kind", m.tokenizer.kind},
                 {"hash", m.tokenizer.hash},
                 {"vocabulary_size", m.tokenizer.vocabulary_size},
                 {"bos", id(m.tokenizer.bos)},
                 {"eos", id(m.tokenizer.eos)},
                 {"eot", id(m.tokenizer.eot)}}},
               {"settings", json::parse(m.settings)},
               {"sources", std::move(sources)},
               {"shards", std::move(shards)},
               {"duplicates", std::move(duplicates)},
               {"rows", m.rows},
               {"kept", m.kept},
               {"other_split", m.other_split},
               {"drops", std::move(drops)},
               {"truncated", m.truncated},
               {"overlap", m.overlap},
               {"tokens", m.tokens},
               {"loss_tokens", m.loss_tokens},
               {"lengths",
                {{"min", m.lengths.min},
                 {"p50", m.lengths.p50},
                 {"p90", m.lengths.p90},
                 {"p95", m.lengths.p95},
                 {"p99", m.lengths.p99},
                 {"max", m.lengths.max}}}};
  root["hash"] = content_hash(root);
  return root.dump(2) + "\n";
}

Manifest read_manifest(const fs::path& folder) {
  fs::path path = folder / "manifest.json";
  std::error_code ignored;
  if (!fs::exists(folder, ignored))
    user_error("{}: no such folder; make it with 'llmft preprocess --output {}'", folder.string(),
               folder.string());
  if (!fs::exists(path, ignored))
    user_error(
        "{}: no manifest.json (not a shard folder, or 'llmft preprocess' has not finished); run 'llmft "
        "preprocess --output {}'",
        folder.string(), folder.string());
  try {
    json root = json::parse(read_file(path));
    Manifest m;
    if (root.at("format") != "llmft-shards") user_error("{}: not a manifest of shards", path.string());
    root.at("format_version").get_to(m.format_version);
    if (m.format_version != kShardFormatVersion)
      user_error("{}: format version {}, this program reads {}; run 'llmft preprocess --force' again",
                 path.string(), m.format_version, kShardFormatVersion);
    if (root.contains("hash") && root["hash"] != content_hash(root))  // it came later
      throw DamagedManifest(
          fmt::format("{}: its hash is not that of its content (damaged, or edited); run 'llmft preprocess' "
                      "again with the "
                      "same settings",
                      path.string()));
    root.at("split").get_to(m.split);
    root.at("template").get_to(m.template_name);
    root.at("fingerprint").get_to(m.fingerprint);
    const json& tokenizer = root.at("tokenizer");
    auto id = [&](const char* name) {
      return tokenizer.at(name).is_null() ? int64_t{-1} : tokenizer.at(name).get<int64_t>();
    };
    m.tokenizer = {tokenizer.at("kind"),
                   tokenizer.at("hash"),
                   tokenizer.at("vocabulary_size"),
                   id("bos"),
                   id("eos"),
                   id("eot")};
    m.settings = root.at("settings").dump();
    for (const json& source : root.at("sources"))
      m.sources.push_back({source.at("name"), source.at("bytes"), source.at("hash")});
    for (const json& shard : root.at("shards"))
      m.shards.push_back({shard.at("file"), shard.at("bytes"), shard.at("rows"), shard.at("tokens"),
                          shard.at("loss_tokens"), shard.at("hash")});
    if (const json& d = root.at("duplicates"); !d.is_null())
      m.duplicates = {d.at("file"), d.at("bytes"), d.at("rows"), d.at("hash")};
    root.at("rows").get_to(m.rows);
    root.at("kept").get_to(m.kept);
    root.at("other_split").get_to(m.other_split);
    const json& drops = root.at("drops");
    for (size_t i = 0; i < m.drops.size(); ++i)
      if (i != static_cast<size_t>(DropReason::too_short) ||
          drops.contains(kDropReasonNames[i]))  // it came later
        drops.at(kDropReasonNames[i]).get_to(m.drops[i]);
    root.at("truncated").get_to(m.truncated);
    root.at("overlap").get_to(m.overlap);
    root.at("tokens").get_to(m.tokens);
    root.at("loss_tokens").get_to(m.loss_tokens);
    const json& lengths = root.at("lengths");
    m.lengths = {lengths.at("min"), lengths.at("p50"), lengths.at("p90"),
                 lengths.at("p95"), lengths.at("p99"), lengths.at("max")};
    return m;
  } catch (const json::exception& e) {
    user_error("{}: not a manifest of shards ({}); run 'llmft preprocess --force' again", path.string(),
               e.what());
  }
}

}  // namespace llmft
