import { createContext, useContext } from "react";
import type { SlotAction } from "../../../api/mutations";

/** Opens the confirmation of a change: of the given revision, or of the one the button names. `unlearned` is what is passed over. */
export type AskSlotChange = (action: SlotAction, revision?: number, unlearned?: string[]) => void;

export const SlotControl = createContext<AskSlotChange>(() => undefined);

export const useAskSlotChange = (): AskSlotChange => useContext(SlotControl);
