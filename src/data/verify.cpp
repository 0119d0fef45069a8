#include "llmft/data/verify.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <numeric>
#include <optional>
#include <vector>

#include <nlohmann/json.hpp>

#include "duplicates.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/log.hpp"
#include "llmft/base/text.hpp"
#include "llmft/data/chat_template.hpp"
#include "llmft/data/manifest.hpp"
#include "llmft/data/orca_reader.hpp"
#include "llmft/data/shard_file.hpp"
#include "output_folder.hpp"
#include "shard_claims.hpp"
#include "shard_job.hpp"
#include "sources.hpp"

namespace llmft {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr uint64_t kComparedPerShard = 16;  // neighbours, so that their source rows are read in one go
constexpr size_t kMostWarnings = 20;

struct Split {
  fs::path folder;
  Manifest manifest;
};

class Verification {
 public:
  Verification(const Process& process, const std::string& folder, const std::string& input,
               const Tokenizer* tokenizer)
      : process_(process), folder_(folder), input_(input), tokenizer_(tokenizer) {}

  void run() {
    open(folder_);
    if (splits_[0].manifest.split == "validation") {
      if (process_.is_root())
        user_error("{}: the validation split of a shard folder; verify the folder that it lies in", folder_);
      process_.barrier();
    }
    fs::path valid = validation_folder(folder_);
    if (fs::exists(valid)) open(valid);
    std::vector<SplitTotals> totals;
    for (const Split& split : splits_) totals.push_back(check_shards(split));
    // What follows needs shards that can be read.
    if (process_.all_agree(findings_.empty())) check_duplicates();
    if (process_.all_agree(findings_.empty())) check_sums(totals);
    bool compared = !input_.empty() && tokenizer_ != nullptr && compare_samples();
    conclude(compared);
  }

 private:
  // Rank 0 first, so that its error is said once.
  void open(const fs::path& folder) {
    if (process_.is_root()) read_manifest(folder);
    process_.barrier();
    splits_.push_back({folder, read_manifest(folder)});
  }

  void find(std::string what) { findings_.push_back(std::move(what)); }

  // The sums over this rank's part of the shards.
  SplitTotals check_shards(const Split& split) {
    SplitTotals mine;
    const std::vector<Manifest::Shard>& shards = split.manifest.shards;
    SharedCounter claims(process_);
    for (uint64_t i = claims.next(); i < shards.size(); i = claims.next()) {
      claims.progress();
      try {
        mine.add(check_shard(split, shards[i]));
      } catch (const UserError& e) {
        find(e.what());
      }
    }
    return mine;
  }

  SplitShards files_of(const Split& split) const {
    SplitShards out{split.folder, {}};
    for (const Manifest::Shard& shard : split.manifest.shards) out.paths.push_back(split.folder / shard.file);
    return out;
  }

  // The lists of duplicates are what the hashes in the shards say. Compared by the sum of their rows' hashes,
  // since a list may not fit into memory.
  void check_duplicates() {
    std::vector<SplitShards> files;
    uint64_t samples = 0;
    for (const Split& split : splits_) {
      files.push_back(files_of(split));
      for (const Manifest::Shard& shard : split.manifest.shards) samples += shard.rows;
    }
    std::array<int64_t, 4> sums{};  // of each split: duplicates, and the sum of their hashes
    auto add = [](int64_t& sum, uint64_t row) {
      uint64_t hash = hash64({reinterpret_cast<const char*>(&row), sizeof row});
      sum = static_cast<int64_t>(static_cast<uint64_t>(sum) + hash);
    };
    uint64_t overlap = find_duplicates(process_, files, samples, [&](size_t split, uint64_t, auto rows) {
      sums[2 * split] += static_cast<int64_t>(rows.size());
      for (uint64_t row : rows) add(sums[2 * split + 1], row);
    });
    process_.all_reduce_sum(std::span<int64_t>(sums));
    if (!process_.is_root()) return;
    for (size_t i = 0; i < splits_.size(); ++i) {
      try {
        check_list(splits_[i], static_cast<uint64_t>(sums[2 * i]), sums[2 * i + 1], add);
      } catch (const UserError& e) {
        find(e.what());
      }
      if (overlap != splits_[i].manifest.overlap)
        find(fmt::format("{}: says that {} validation samples are also among the training samples, {} are",
                         (splits_[i].folder / "manifest.json").string(), splits_[i].manifest.overlap,
                         overlap));
    }
    if (splits_.size() == 2) log::info("{} validation samples are also among the training samples", overlap);
  }

  template <class F>
  static void check_list(const Split& split, uint64_t count, int64_t sum, const F& add) {
    const Manifest::Duplicates& stated = split.manifest.duplicates;
    fs::path path = split.folder / kDuplicatesName;
    if (count != stated.rows)
      user_error("{}: says that {} samples are duplicates of an earlier shard's, {} are",
                 (split.folder / "manifest.json").string(), stated.rows, count);
    if (stated.file.empty()) return;
    if (hash_file(path) != stated.hash)
      user_error("{}: its hash is not what the manifest says", path.string());
    DuplicateRows rows(path);
    constexpr uint64_t kRows = uint64_t{1} << 20;
    int64_t listed = 0;
    uint64_t seen = 0;
    for (uint64_t begin = 0; begin < split.manifest.rows; begin += kRows) {
      std::vector<uint64_t> some = rows.in(begin, begin + kRows);
      seen += some.size();
      for (uint64_t row : some) add(listed, row);
    }
    if (seen != count || listed != sum)
      user_error("{}: lists other rows than those that are duplicates", path.string());
  }

  void check_sums(const std::vector<SplitTotals>& mine) {
    for (size_t i = 0; i < splits_.size(); ++i) {
      const Manifest& m = splits_[i].manifest;
      SplitTotals part = mine[i];
      if (!m.duplicates.file.empty())
        part.subtract(count_duplicates(process_, files_of(splits_[i]),
                                       DuplicateRows(splits_[i].folder / m.duplicates.file), rows_per_shard(),
                                       static_cast<TokenId>(m.tokenizer.eot)));
      const auto& drops = part.counts.drops;
      std::array<int64_t, 8> sums = {static_cast<int64_t>(part.samples),
                                     static_cast<int64_t>(part.tokens),
                                     static_cast<int64_t>(part.loss_tokens),
                                     static_cast<int64_t>(part.counts.truncated),
                                     static_cast<int64_t>(drops[0] + drops[1]),
                                     static_cast<int64_t>(drops[2]),
                                     static_cast<int64_t>(drops[3]),
                                     static_cast<int64_t>(drops[4])};
      process_.all_reduce_sum(std::span<int64_t>(sums));
      if (!process_.is_root()) continue;
      uint64_t repeated = 0;
      for (const Split& split : splits_) repeated += split.manifest.duplicates.rows;
      std::array<uint64_t, 8> stated = {m.kept,
                                        m.tokens,
                                        m.loss_tokens,
                                        m.truncated,
                                        m.drops[0] + m.drops[1],
                                        m.drops[2],
                                        m.drops[3] - repeated,
                                        m.drops[4]};
      bool same = std::equal(sums.begin(), sums.end(), stated.begin(),
                             [](int64_t a, uint64_t b) { return static_cast<uint64_t>(a) == b; });
      uint64_t other = splits_.size() == 2 ? splits_[1 - i].manifest.kept : 0;
      uint64_t gone = std::accumulate(m.drops.begin(), m.drops.end(), uint64_t{0});
      if (!same || m.other_split != other || m.rows != m.kept + m.other_split + gone) {
        find(fmt::format("{}: its numbers are not the sums over the shards",
                         (splits_[i].folder / "manifest.json").string()));
        continue;
      }
      log::info("{}: {} shards, {} samples, {} tokens: sizes, hashes and checksums hold",
                splits_[i].folder.string(), m.shards.size(), m.kept, m.tokens);
    }
  }

  uint64_t rows_per_shard() const {
    json settings = json::parse(splits_[0].manifest.settings);
    if (!settings.contains("rows_per_shard") || !settings["rows_per_shard"].is_number_unsigned())
      user_error("{}: its settings have no rows_per_shard", (folder_ / fs::path("manifest.json")).string());
    return settings["rows_per_shard"];
  }

  static ShardSummary check_shard(const Split& split, const Manifest::Shard& stated) {
    fs::path path = split.folder / stated.file;
    std::error_code error;
    uint64_t bytes = fs::file_size(path, error);
    if (error) user_error("{}: missing ({})", path.string(), error.message());
    if (bytes != stated.bytes)
      user_error("{}: has {} bytes, the manifest says {}", path.string(), bytes, stated.bytes);
    ShardSummary s = summarise(path);
    if (s.shard.hash != stated.hash)
      user_error("{}: its hash is {}, the manifest says {}", path.string(), s.shard.hash, stated.hash);
    ShardReader reader(path);
    if (reader.origin().fingerprint != split.manifest.fingerprint || s.shard.rows != stated.rows ||
        s.shard.tokens != stated.tokens || s.shard.loss_tokens != stated.loss_tokens)
      user_error("{}: does not belong to this manifest", path.string());
    const ShardOrigin& origin = reader.origin();
    for (uint64_t i = 0, next = origin.first_row; i < reader.samples(); ++i) {
      uint64_t row = reader.row(i);
      if (row < next || row >= origin.first_row + origin.rows)
        user_error("{}: source row {} of sample {} is out of order", path.string(), row, i);
      next = row + 1;
    }
    return s;
  }

  // False when there is nothing to compare with.
  bool compare_samples() {
    const Manifest& m = splits_[0].manifest;
    if (tokenizer_->file_hash() != m.tokenizer.hash) {
      if (process_.is_root())
        find(fmt::format("{}: made with another tokenizer ({}, this one is {})", folder_, m.tokenizer.hash,
                         tokenizer_->file_hash()));
      return false;
    }
    StageTimes unused;
    Sources sources = share_sources(process_, input_, unused);
    bool same = sources.files.size() == m.sources.size();
    for (size_t i = 0; same && i < m.sources.size(); ++i)
      same = sources.files[i].name == m.sources[i].name && sources.hashes[i] == m.sources[i].hash;
    if (!same) {
      if (process_.is_root())
        find(fmt::format("{}: is not the input that {} was made from", input_, folder_));
      return false;
    }
    int64_t compared = 0;
    {
      SourceCursor cursor(sources.files, sources.pieces);
      ChatTemplate chat(m.template_name == "llama3" ? TemplateKind::llama3 : TemplateKind::plain,
                        *tokenizer_);
      std::vector<uint64_t> all(m.shards.size());
      std::iota(all.begin(), all.end(), 0);
      ShardClaims claims(process_, sources, rows_per_shard(), all);
      for (std::vector<uint64_t> unit = claims.next(); !unit.empty(); unit = claims.next()) {
        claims.progress();
        for (uint64_t shard : unit) compared += compare_shards(shard, cursor, chat);
      }
    }
    process_.all_reduce_sum(std::span<int64_t>(&compared, 1));
    if (process_.is_root()) log::info("{} samples compared with their source rows", compared);
    return true;
  }

  // A sample of a shard of all splits, in source order, for a compressed source is read from its start.
  int64_t compare_shards(uint64_t shard, SourceCursor& cursor, ChatTemplate& chat) {
    struct Chosen {
      uint64_t row;
      uint64_t sample;
      const ShardReader* reader;
    };
    std::vector<std::unique_ptr<ShardReader>> readers;
    std::vector<Chosen> chosen;
    try {
      for (const Split& split : splits_) {
        readers.push_back(std::make_unique<ShardReader>(split.folder / split.manifest.shards.at(shard).file));
        const ShardReader& reader = *readers.back();
        uint64_t count = std::min(kComparedPerShard, reader.samples());
        if (count == 0) continue;
        // Another place in each shard.
        uint64_t begin = hash64(reader.path().filename().string()) % (reader.samples() - count + 1);
        for (uint64_t i = begin; i < begin + count; ++i) chosen.push_back({reader.row(i), i, &reader});
      }
      std::sort(chosen.begin(), chosen.end(), [](auto& a, auto& b) { return a.row < b.row; });
      for (const Chosen& one : chosen) compare_sample(*one.reader, one.sample, one.row, cursor, chat);
    } catch (const UserError& e) {
      find(e.what());
      return 0;
    }
    return static_cast<int64_t>(chosen.size());
  }

  void compare_sample(const ShardReader& reader, uint64_t sample, uint64_t source_row, SourceCursor& cursor,
                      ChatTemplate& chat) const {
    uint64_t begin = reader.offset(sample);
    std::vector<int32_t> stored;
    reader.append_tokens(begin, reader.offset(sample + 1) - begin, stored);
    cursor.seek(source_row);
    Row row;
    if (!cursor.next(row))
      user_error("{}: sample {} is of row {}, which is not there", reader.path().string(), sample,
                 source_row);
    std::string why = difference({stored.begin(), stored.end()}, reader.loss_start(sample),
                                 {row.system_prompt, row.question, row.response}, chat);
    if (!why.empty())
      user_error("{}: sample {} is not what source row {} gives ({})", reader.path().string(), sample,
                 source_row, why);
  }

  // Empty when the sample is what the fields give. A cut sample is the beginning of it.
  std::string difference(const std::vector<TokenId>& stored, uint32_t loss_start, const ChatFields& fields,
                         ChatTemplate& chat) const {
    std::vector<TokenId> tokens;
    uint32_t expected_start = 0;
    chat.encode(fields, tokens, expected_start);
    if (loss_start != expected_start) return "the response starts elsewhere";
    bool cut = stored.size() < tokens.size();
    if (cut) tokens.resize(stored.size());
    if (stored != tokens) return "other tokens";
    // Sentencepiece does not keep every blank of a text.
    if (tokenizer_->kind() == "sentencepiece") return "";
    std::string text = tokenizer_->decode(stored);
    std::string rendered = chat.render(fields);
    bool same = cut ? rendered.starts_with(text) : rendered == text;
    return same ? "" : "the decoded text differs";
  }

  void conclude(bool compared) {
    json mine = findings_;
    std::vector<std::string> all;
    for (const std::string& text :
         process_.all_gather(mine.dump(-1, ' ', false, json::error_handler_t::replace)))
      for (const json& finding : json::parse(text)) all.push_back(finding);
    if (!process_.is_root()) {
      process_.barrier();
      return;
    }
    for (size_t i = 0; i < std::min(all.size(), kMostWarnings); ++i) log::warn("{}", all[i]);
    if (!all.empty())
      user_error(
          "{}: NOT verified, {} found; delete damaged shards and manifest.json and run 'llmft preprocess' "
          "again with the same settings",
          folder_, all.size() == 1 ? "1 fault was" : fmt::format("{} faults were", all.size()));
    log::info("{}: verified{}", folder_,
              compared ? "" : "; not compared with its source (give --input and --tokenizer for that)");
    process_.barrier();
  }

  const Process& process_;
  std::string folder_;
  std::string input_;
  const Tokenizer* tokenizer_;
  std::vector<Split> splits_;
  std::vector<std::string> findings_;
};

}  // namespace

void verify_shards(const Process& process, const std::string& folder, const std::string& input,
                   const Tokenizer* tokenizer) {
  Verification(process, folder, input, tokenizer).run();
}

}  // namespace llmft
