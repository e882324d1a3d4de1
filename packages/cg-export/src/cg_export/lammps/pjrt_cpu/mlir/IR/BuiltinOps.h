// XLA's headers name these classes; nothing here uses them, and the TensorFlow wheel does not ship MLIR's headers.
#pragma once
namespace mlir {
class MLIRContext;
class Operation;
class ModuleOp {
  Operation *state = nullptr;
};
template <typename T> class OwningOpRef {
  T op;
};
}    // namespace mlir
