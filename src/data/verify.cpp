#include "llmft/data/verify.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <vector>

#include <nlohmann/json.hpp>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/log.hpp"
#include "llmft/base/text.hpp"
#include "llmft/data/chat_template.hpp"
#include "llmft/data/manifest.hpp"
#include "llmft/data/orca_reader.hpp"
#include "llmft/data/shard_file.hpp"
#include "output_folder.hpp"
#include "scan.hpp"
#include "shard_job.hpp"
#include "shard_making.hpp"

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
    fs::path valid = validation_folder(folder_);
    if (fs::exists(valid)) open(valid);
    for (const Split& split : splits_) check_shards(split);
    if (splits_.size() == 2) check_overlap();
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

  void check_shards(const Split& split) {
    const Manifest& m = split.manifest;
    std::array<int64_t, 8> sums{};
    SharedCounter claims(process_);
    for (uint64_t i = claims.next(); i < m.shards.size(); i = claims.next()) {
      claims.progress();
      try {
        ShardSummary s = check_shard(split, m.shards[i]);
        std::vector<uint64_t>& hashes = &split == &splits_[0] ? train_hashes_ : valid_hashes_;
        hashes.insert(hashes.end(), s.hashes.begin(), s.hashes.end());
        std::array<uint64_t, 8> counts = {s.shard.rows,         s.shard.tokens,
                                          s.shard.loss_tokens,  s.counts.truncated,
                                          s.counts.other_split, s.counts.drops[0] + s.counts.drops[1],
                                          s.counts.drops[2],    s.counts.drops[3]};
        for (size_t k = 0; k < sums.size(); ++k) sums[k] += static_cast<int64_t>(counts[k]);
      } catch (const UserError& e) {
        find(e.what());
      }
    }
    process_.all_reduce_sum(std::span<int64_t>(sums));
    if (!process_.all_agree(findings_.empty()) || !process_.is_root()) return;
    std::array<uint64_t, 8> stated = {m.kept,      m.tokens,      m.loss_tokens,
                                      m.truncated, m.other_split, m.drops[0] + m.drops[1],
                                      m.drops[2],  m.drops[3]};
    bool same = std::equal(sums.begin(), sums.end(), stated.begin(),
                           [](int64_t a, uint64_t b) { return static_cast<uint64_t>(a) == b; });
    uint64_t gone = m.drops[0] + m.drops[1] + m.drops[2] + m.drops[3];
    if (!same || m.rows != m.kept + m.other_split + gone)
      find(fmt::format("{}: its numbers are not the sums over the shards",
                       (split.folder / "manifest.json").string()));
    log::info("{}: {} shards, {} samples, {} tokens: sizes, hashes and checksums hold", split.folder.string(),
              m.shards.size(), m.kept, m.tokens);
  }

  static ShardSummary check_shard(const Split& split, const Manifest::Shard& stated) {
    fs::path path = split.folder / stated.file;
    std::error_code error;
    uint64_t bytes = fs::file_size(path, error);
    if (error) user_error("{}: missing ({})", path.string(), error.message());
    if (bytes != stated.bytes)
      user_error("{}: has {} bytes, the manifest says {}", path.string(), bytes, stated.bytes);
    ShardSummary s = summarise(path, SampleHashes::yes);
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

  void check_overlap() {
    uint64_t overlap = count_overlap(process_, train_hashes_, valid_hashes_);
    if (!process_.all_agree(findings_.empty()) || !process_.is_root()) return;
    log::info("{} validation samples are also among the training samples", overlap);
    uint64_t stated = splits_[1].manifest.overlap;
    if (overlap != stated)
      find(fmt::format("{}: says that {} validation samples are also among the training samples, {} are",
                       (splits_[1].folder / "manifest.json").string(), stated, overlap));
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
    scan_sources(process_, sources, unused);
    int64_t compared = 0;
    {
      SourceCursor cursor(sources.files, sources.pieces);
      ChatTemplate chat(m.template_name == "llama3" ? TemplateKind::llama3 : TemplateKind::plain,
                        *tokenizer_);
      SharedCounter claims(process_);
      for (uint64_t i = claims.next(); i < m.shards.size(); i = claims.next()) {
        claims.progress();
        for (const Split& split : splits_) {
          try {
            compared += compare_shard(split.folder / split.manifest.shards.at(i).file, cursor, chat);
          } catch (const UserError& e) {
            find(e.what());
          }
        }
      }
    }
    process_.all_reduce_sum(std::span<int64_t>(&compared, 1));
    if (process_.is_root()) log::info("{} samples compared with their source rows", compared);
    return true;
  }

  int64_t compare_shard(const fs::path& path, SourceCursor& cursor, ChatTemplate& chat) const {
    ShardReader reader(path);
    std::vector<uint64_t> offsets = reader.offsets();
    std::vector<uint32_t> starts = reader.loss_starts();
    uint64_t count = std::min(kComparedPerShard, reader.samples());
    if (count == 0) return 0;
    // Another place in each shard.
    uint64_t begin = hash64(path.filename().string()) % (reader.samples() - count + 1);
    for (uint64_t i = begin; i < begin + count; ++i) {
      std::vector<int32_t> stored;
      reader.append_tokens(offsets[i], offsets[i + 1] - offsets[i], stored);
      cursor.seek(reader.row(i));
      Row row;
      if (!cursor.next(row))
        user_error("{}: sample {} is of row {}, which is not there", path.string(), i, reader.row(i));
      std::string why = difference({stored.begin(), stored.end()}, starts[i],
                                   {row.system_prompt, row.question, row.response}, chat);
      if (!why.empty())
        user_error("{}: sample {} is not what source row {} gives ({})", path.string(), i, reader.row(i),
                   why);
    }
    return static_cast<int64_t>(count);
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
  std::vector<uint64_t> train_hashes_;
  std::vector<uint64_t> valid_hashes_;
  std::vector<std::string> findings_;
};

}  // namespace

void verify_shards(const Process& process, const std::string& folder, const std::string& input,
                   const Tokenizer* tokenizer) {
  Verification(process, folder, input, tokenizer).run();
}

}  // namespace llmft
